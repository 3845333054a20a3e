// A form of the workbook, drawn by anywidget in JupyterLab and VS Code. What is typed is kept in this
// browser (localStorage) from the first letter until the kernel says that it has taken it: a kernel
// that is busy, restarted or dead loses nothing, nor does a reload.

const PAUSE_MS = 600; // of no typing, then it is sent
const ANSWER_MS = 1500; // that a kernel with nothing else to do never needs
const KEPT = "Kept in this browser.";
const BUSY = "Kept in this browser. The kernel is busy: it is saved as soon as the kernel is free.";
const GONE =
  "The kernel behind this form is gone. What you type is kept in this browser: " +
  "run the notebook's first cells, then this one, to save it.";

function make(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

// ---------------------------------------------------------------- drafts

function drafts(name) {
  // A front end may forbid localStorage: then the form works without drafts.
  const attempt = (what) => { try { return what(); } catch { return null; } };
  return {
    read: () => attempt(() => JSON.parse(localStorage.getItem(name))),
    keep: (draft) => attempt(() => localStorage.setItem(name, JSON.stringify(draft))),
    drop: () => attempt(() => localStorage.removeItem(name)),
  };
}

// ---------------------------------------------------------------- controls: {node, read, write}

function oneLine(field) {
  const node = make("input", { type: "text", value: field.value, placeholder: field.hint });
  return { node, read: () => node.value, write: (value) => { node.value = value; } };
}

function text(field) {
  const node = make("textarea", { value: field.value, rows: field.lines + 1, placeholder: field.hint });
  return { node, read: () => node.value, write: (value) => { node.value = value; } };
}

function tick(field) {
  const box = make("input", { type: "checkbox", checked: field.value });
  const node = make("label", {}, box, " " + field.hint);
  return { node, read: () => box.checked, write: (value) => { box.checked = value; } };
}

function slider(field) {
  const { min, max, step } = field;
  const bar = make("input", { type: "range", min, max, step, value: field.value });
  const shown = make("output", { textContent: field.value });
  bar.addEventListener("input", () => { shown.textContent = bar.value; });
  const write = (value) => { bar.value = value; shown.textContent = value; };
  return { node: make("span", {}, bar, " ", shown), read: () => bar.value, write };
}

function choice(field) {
  const name = `choice-${Math.random()}`;
  const radios = field.options.map((value) => make("input", { type: "radio", name, value }));
  const node = make("div", {}, ...radios.map((radio) => make("label", {}, radio, " " + radio.value)));
  const write = (value) => radios.forEach((radio) => { radio.checked = radio.value === value; });
  write(field.value);
  return { node, read: () => radios.find((radio) => radio.checked)?.value ?? "", write };
}

const CONTROLS = { number: oneLine, text, tick, slider, choice };

// ---------------------------------------------------------------- one field

function draw(field, model, place) {
  const draft = drafts(`workbook ${place} ${field.key}`);
  const control = CONTROLS[field.kind](field);
  const said = make("div", { className: "said", ariaLive: "polite" });
  const actions = make("div", { className: "actions" });
  const typed = field.kind === "number" || field.kind === "text";
  let asked = 0, pause, patience, alive = true;

  function say(words, buttons = {}) {
    said.textContent = words;
    const made = Object.entries(buttons).map(([label, onclick]) =>
      make("button", { textContent: label, onclick }));
    actions.replaceChildren(...made);
  }

  function send(action = "") {
    clearTimeout(pause);
    clearTimeout(patience);
    asked += 1;
    const notYet = () => say(alive ? BUSY : KEPT); // that it is gone stands below the form
    patience = setTimeout(notYet, alive ? ANSWER_MS : 0);
    try {
      model.send({ key: field.key, value: control.read(), id: asked, action });
    } catch {
      notYet();
    }
  }

  function changed(now) {
    draft.keep({ value: control.read(), over: field.value, at: Date.now() });
    say(""); // what was said belonged to the text before
    clearTimeout(pause);
    if (now) send();
    else if (!field.deliberate) pause = setTimeout(send, PAUSE_MS);
  }

  function finish() {
    if (draft.read()) send();
  }

  function answered(reply) {
    if (reply.key !== field.key || reply.id !== asked) return;
    clearTimeout(patience);
    alive = true;
    if (reply.value !== undefined) control.write(reply.value);
    else if (control.read() !== reply.of) return; // typed on: that comes next
    if (reply.taken) {
      field.value = control.read();
      draft.drop();
    }
    offer(reply);
  }

  function offer({ said: words, actions: names }) {
    const buttons = Object.entries(names).map(([name, label]) => [label, () => send(name)]);
    say(words, Object.fromEntries(buttons));
  }

  function restore() {
    const kept = draft.read();
    if (!kept || kept.value === field.value) return draft.drop();
    const use = () => { control.write(kept.value); changed(true); };
    if (kept.over === field.value) return use();
    const when = new Date(kept.at).toLocaleString();
    const drop = () => { draft.drop(); offer(field); };
    say(`Typed in this browser on ${when} and never saved: ${kept.value}`, {
      "Use this text": use,
      "Keep what is saved": drop,
    });
  }

  control.node.addEventListener("input", () => changed(!typed));
  control.node.addEventListener("change", finish);
  control.node.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.shiftKey || field.kind === "number")) {
      event.preventDefault();
      finish();
      if (event.shiftKey) nextCell(control.node);
    }
  });
  model.on("msg:custom", answered);
  offer(field);
  restore();
  const unit = make("span", { className: "unit", textContent: field.unit });
  const question = make("div", { className: "question", textContent: field.question });
  const input = control.node.matches("input, textarea") ? control.node : control.node.querySelector("input");
  if (!input.ariaLabel) input.ariaLabel = field.question;
  return {
    node: make("div", { className: `field ${field.kind}` }, question, control.node, unit, said, actions),
    lost: () => { alive = false; if (draft.read()) say(KEPT); },
    again: () => { alive = true; finish(); },
  };
}

// Shift+Enter goes on in the notebook, as it does in a cell.
function nextCell(node) {
  const cell = node.closest(".jp-Cell");
  const below = cell?.nextElementSibling;
  (below?.matches(".jp-Cell") ? below : cell)?.focus();  // JupyterLab selects what has the focus
}

// ---------------------------------------------------------------- the form

function render({ model, el }) {
  const note = make("div", { className: "note", ariaLive: "polite" });
  const place = model.get("place");
  const fields = model.get("fields").map((field) => draw(field, model, place));
  // Only known to JupyterLab's and VS Code's widgets: the connection to the kernel came or went.
  model.on("comm_live_update", () => {
    note.textContent = GONE;
    fields.forEach((field) => field.lost());
    try { model.send({ ping: true }); } catch { /* it is gone */ }
  });
  model.on("msg:custom", (reply) => {
    if (!reply.pong) return;
    note.textContent = "";
    fields.forEach((field) => field.again());
  });
  const title = make("div", { className: "title", textContent: model.get("title") });
  const groups = new Map();
  model.get("fields").forEach(({ group }, i) => {
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(fields[i].node);
  });
  const parts = [...groups].map(([group, nodes], i) =>
    group ? make("details", { open: i === 0 }, make("summary", { textContent: group }), ...nodes)
      : make("div", {}, ...nodes));
  const box = make("div", { className: "workbook-form" }, title, ...parts, note);
  // Keys are text here, not JupyterLab's shortcuts.
  box.addEventListener("keydown", (event) => event.stopPropagation());
  el.append(box);
}

export default { render };
