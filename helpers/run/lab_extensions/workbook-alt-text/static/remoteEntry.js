// JupyterLab 4.6 draws a picture without the alt text in its metadata ({"image/png": {"alt": ...}},
// which nbconvert reads): its own renderer does all else, then this adds the text. Written by hand
// as what JupyterLab loads, a module federation container: init() gets the shared packages,
// get() answers with a factory of the plugin.
(() => {
  let shared;

  async function plugin() {
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
          if (image && typeof alt === "string") image.alt = alt;
        };
        return widget;
      }
      registry.addFactory({ ...images, createRenderer }, images.defaultRank);
    }

    const requires = [IRenderMimeRegistry];
    return { id: "workbook-alt-text:plugin", autoStart: true, requires, activate };
  }

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB["workbook-alt-text"] = {
    init: (scope) => { shared = scope; },
    get: async () => {
      const found = { __esModule: true, default: await plugin() };
      return () => found;
    },
  };
})();
