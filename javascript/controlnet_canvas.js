// Gives a drawing canvas of the panel the size of its picture where gradio fails to.
//
// gradio 3.41.2 sizes its canvases when a resize observer first reports, unless a timer of 10 ms
// has run before. On a busy machine it has, and then the canvas keeps the browser's 300 x 150 for
// good: the picture is not shown, and strokes land in the wrong place or nowhere.
(() => {
  "use strict";

  const PERIOD = 200; // ms; gradio needs less than half of it
  const TRIES = 50;

  const layers = (widget) => Array.from(widget.querySelectorAll("canvas[key]"));

  function fits(widget, picture) {
    const mask = layers(widget).find((canvas) => canvas.getAttribute("key") === "mask");
    return mask && mask.width === picture.naturalWidth && mask.height === picture.naturalHeight;
  }

  /** What gradio would have done; it draws the picture when told that the picture has loaded. */
  function repair(widget, picture) {
    const shown = picture.getBoundingClientRect().height;
    for (const canvas of layers(widget)) {
      const density = canvas.getAttribute("key") === "mask" ? 1 : window.devicePixelRatio || 1;
      canvas.width = picture.naturalWidth * density;
      canvas.height = picture.naturalHeight * density;
      canvas.getContext("2d").scale(density, density);
      canvas.style.height = `${shown}px`;
      canvas.style.width = `${(shown * picture.naturalWidth) / picture.naturalHeight}px`;
    }
    picture.dispatchEvent(new Event("load"));
  }

  /** Look until the canvas fits; one that does not at two looks in a row is repaired. */
  const watched = new WeakMap();
  function watch(widget, picture, tries, suspected) {
    clearTimeout(watched.get(widget));
    if (!picture.isConnected || !tries) return;
    const found = layers(widget).length > 0 && picture.offsetParent !== null;
    const wrong = found && picture.naturalWidth > 0 && !fits(widget, picture);
    if (found && !wrong) return;
    if (wrong && suspected) {
      repair(widget, picture);
      return;
    }
    watched.set(widget, setTimeout(() => watch(widget, picture, tries - 1, wrong), PERIOD));
  }

  document.addEventListener(
    "load",
    (event) => {
      const widget = event.target.closest && event.target.closest(".cnet-image");
      if (widget && event.target.tagName === "IMG") watch(widget, event.target, TRIES, false);
    },
    true,
  );
})();
