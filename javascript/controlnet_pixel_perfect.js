// The resolution that "Pixel Perfect" comes to, behind its label: of the picture that is in the
// unit, for the size that the tab asks for.
//
// A classic script; `controlnetPanel.resizeModeOf` and `targetOf` are for the editors, too. The rule is `pixel_perfect_resolution`'s in
// `lib_controlnet/pictures/maps.py`; a test compares both.
(() => {
  "use strict";

  const { TABS, find, follow, isShown, part, unitsOf, word } = window.controlnetPanel.page;
  const GRID = 8;
  /** Numbers of modes, here and in the host's own radio, which has one more that stretches. */
  const [STRETCH, FILL, LATENT] = [0, 2, 3];
  const numberIn = (id) => Number(find(`${id} input[type=number]`)?.value);
  const chosenIn = (radio) => Array.from(radio?.querySelectorAll("input") || []).findIndex((input) => input.checked);

  /** Number of the mode that lays a unit's picture and mask over the result: the unit's own, or the tab's where it follows that. */
  function resizeModeOf(tab, unit) {
    const isTabs = window.controlnetPanel.followsTab(tab, unit);
    const mode = chosenIn(isTabs ? find("#resize_mode") : part(unit, "controlnet_resize_mode_radio"));
    return mode === LATENT ? STRETCH : Math.max(mode, STRETCH);
  }

  /** Width and height of the picture that a tab makes; scaled ones follow from that of the tab. */
  function targetOf(tab) {
    const { imageOf, tabPicture } = window.controlnetPanel;
    const buttons = Array.from(document.querySelectorAll("#img2img_tabs_resize > .tab-nav > button"));
    const scales = tab === "img2img" && buttons.length > 1 && buttons[1].classList.contains("selected");
    const picture = scales && imageOf(tabPicture());
    const scale = numberIn("#img2img_scale") || 1;
    const sides = picture?.naturalWidth
      ? [picture.naturalWidth * scale, picture.naturalHeight * scale]
      : [numberIn(`#${tab}_width`), numberIn(`#${tab}_height`)];
    return sides.map((side) => Math.floor(side / GRID) * GRID);
  }

  /** Short side of the picture at which a pixel of the map is one of the result; 0 where unknown. */
  function resolution(tab, unit, panel) {
    const picture = unit.dataset.picture && find(`${unit.dataset.picture} img[src]:not([src=""])`);
    if (!picture?.naturalWidth || panel.classList.contains("cnet-only-masked")) return 0; // a part is cut out
    const [width, height] = targetOf(tab);
    const factors = [width / picture.naturalWidth, height / picture.naturalHeight];
    const factor = resizeModeOf(tab, unit) === FILL ? Math.min(...factors) : Math.max(...factors);
    return Math.max(1, Math.round(factor * Math.min(picture.naturalWidth, picture.naturalHeight))) || 0;
  }

  function show(tab, unit, panel) {
    const label = part(unit, "controlnet_pixel_perfect_checkbox", "label");
    if (!label) return;
    const preprocessor = part(unit, "controlnet_preprocessor_dropdown", "input")?.value || "none";
    const isOn = find("input", label).checked && preprocessor.toLowerCase() !== "none";
    const size = isOn ? resolution(tab, unit, panel) : 0;
    let mark = find(".cnet-pixel-size", label);
    if (!size) {
      if (mark) mark.remove();
      return;
    }
    if (!mark) {
      mark = document.createElement("span");
      mark.className = "cnet-pixel-size";
      label.append(mark);
    }
    const text = word("pixel_perfect_size", { size });
    if (mark.textContent === text) return;
    mark.textContent = text;
    mark.title = word("pixel_perfect_why", { size });
  }

  function update() {
    for (const tab of TABS) {
      const panel = find(`#${tab}_controlnet`);
      for (const unit of unitsOf(tab)) {
        if (isShown(unit)) show(tab, unit, panel);
      }
    }
  }

  follow(update, { calmly: true });
  Object.assign(window.controlnetPanel, { resizeModeOf, targetOf });
})();
