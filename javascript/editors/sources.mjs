// What a map is begun from: the unit's picture, its detected map and pose, and the size to be made.

const { dataUrl, page, resizeModeOf, targetOf, unitTools } = window.controlnetPanel;
const { find, part } = page;
const SIDE = 2048; // pixels of the longer side of a map

const pictureIn = (place) => find(place && `${place} img[src]:not([src=""])`);
export const loadPicture = (url) => page.load(url).catch(() => null);

/** A short text that is another for another text, as good as always. */
function digest(text) {
  let sum = 0;
  for (let i = 0; i < text.length; i += 1) sum = (Math.imul(sum, 31) + text.charCodeAt(i)) | 0;
  return `${text.length} ${sum}`;
}

/** The size of the picture to be made. */
export function wantedSize(tab) {
  const [width, height] = targetOf(tab).map((side) => side || 512);
  return bound({ width, height });
}

/** A size whose longer side is one that a map may have. */
export function bound({ width, height }) {
  const scale = Math.min(1, SIDE / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/** What is shown in a unit at the moment that an editor may begin from. */
export async function readUnit(unit) {
  const own = pictureIn(unit.dataset.picture);
  const map = find(".cnet-generated-image-group img[src]", unit);
  const link = find('.cnet-download-pose a[href^="data:application/json"]', unit);
  const [photograph, shown] = await Promise.all([own, map].map((image) => image && dataUrl(image.src).catch(() => null)));
  return {
    photograph: photograph || null,
    map: (await (shown && loadPicture(shown))) || null,
    source: shown ? digest(shown) : "",
    pose: link && find(".cnet-download-pose", unit).offsetParent ? JSON.parse(atob(link.href.split(",")[1])) : null,
    mode: resizeModeOf(unitTools.placeOf(unit).tab, unit),
    preprocessor: part(unit, "controlnet_preprocessor_dropdown", "input")?.value || "",
  };
}
