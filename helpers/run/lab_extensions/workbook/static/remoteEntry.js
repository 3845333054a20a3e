// What the workbook adds to JupyterLab 4.6. Written by hand as what JupyterLab loads, a module
// federation container: init() gets the shared packages, get() answers with a factory of plugins.
(() => {
  let shared;

  // A picture is drawn without the alt text in its metadata ({"image/png": {"alt": ...}}, which
  // nbconvert reads): JupyterLab's own renderer does all else, then this adds the text.
  async function altText() {
    const [entry] = Object.values(shared["@jupyterlab/rendermime"]);
    const { IRenderMimeRegistry } = (await entry.get())();

    function activate(app, registry) {
      const images = registry.getFactory("image/png");
      function createRenderer(options) {
        const widget = images.createRenderer(options);
        const draw = widget.renderModel.bind(widget);
        widget.renderModel = async (model) => {
          await draw(model);
          const image = widget.node.querySelector("img");
          const alt = model.metadata[options.mimeType]?.alt ?? model.metadata.alt;
          if (image && typeof alt === "string") {
            image.alt = alt;
            image.classList.add("workbook-picture");
          }
        };
        return widget;
      }
      registry.addFactory({ ...images, createRenderer }, images.defaultRank);
    }

    const requires = [IRenderMimeRegistry];
    return { id: "workbook:alt-text", autoStart: true, requires, activate };
  }

  // Pictures are drawn on white paper: on a dark page light and dark change places, hues stay.
  // Printed lines break at spaces; JupyterLab's own break within words.
  function styles() {
    const pictures = ".workbook-picture, .steps"; // drawings have colours of their own for it
    const textContent = `
      body[data-jp-theme-light="false"] :is(${pictures}) { filter: invert(0.93) hue-rotate(180deg); }
      .jp-OutputArea-output pre { word-break: normal; overflow-wrap: anywhere; }
    `;
    const activate = () => document.head.append(
      Object.assign(document.createElement("style"), { textContent }));
    return { id: "workbook:styles", autoStart: true, activate };
  }

  // START.md is written anew at every save of a notebook: where it is seen, it is read anew.
  function startPage() {
    function activate(app) {
      async function follow(context) {
        const file = await app.serviceManager.contents.get(context.path, { content: false });
        const known = context.contentsModel?.last_modified;
        if (known && file.last_modified !== known && !context.model.dirty) await context.revert();
      }
      setInterval(() => {
        for (const widget of app.shell.widgets("main"))
          if (widget.isVisible && widget.context?.path.endsWith("START.md"))
            follow(widget.context).catch(() => {}); // the server is gone: JupyterLab says so
      }, 2000);
    }
    return { id: "workbook:start-page", autoStart: true, activate };
  }

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB["workbook"] = {
    init: (scope) => { shared = scope; },
    get: async () => {
      const found = { __esModule: true, default: [await altText(), styles(), startPage()] };
      return () => found;
    },
  };
})();
