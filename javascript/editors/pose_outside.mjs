// Poses that come into a unit from outside, as a text or from the pose editor of another extension,
// which is shown in a dialog.
//
// That editor's page tells { ready: true }, gets { modalId, imageURL, poseURL } and gives back
// { modalId, poseURL }, data URLs all. It is a page of this WebUI; no other one is heard or told
// anything.

const stamp = new URL(import.meta.url).search;
const load = (file) => import(new URL(file + stamp, import.meta.url));
const files = ["frame.mjs", "controls.mjs", "sources.mjs", "pose_figure.mjs", "store.mjs"];
const [frame, { button, make }, { readUnit, wantedSize }, figures, store] = await Promise.all(files.map(load));

const { page, putMap } = window.controlnetPanel;
const { find, word } = page;
const HEAD = "data:application/json;base64,";
const PATIENCE = 5000; // ms for a page that does not say that it is ready

/** Have our editor begin with a state, of which the unit gets the result, when it is next opened. */
async function keep({ tab, index, unit }, state, result) {
  const { width, height } = state;
  const name = `${tab}/${index}/pose`;
  const kept = await store.read(name);
  const { photograph, source } = await readUnit(unit);
  const own = photograph && photograph === kept?.result ? kept.photograph : photograph;
  await store.write(name, { state, size: { width, height }, result, source, photograph: own || null });
}

/** Draw the text of a pose: its map becomes the unit's picture, and its figures those of our editor. */
export async function put(place, text) {
  const { tab, unit } = place;
  const asked = { text, ...wantedSize(tab) };
  const { width, height, figures: found } = await frame.askServer(tab, "read_pose", asked);
  const image = await frame.askServer(tab, "render_pose", asked);
  const state = { figures: figures.readFigures(found), width, height };
  await keep(place, state, image).catch(() => {}); // a browser that keeps nothing
  await putMap(unit, image, word("pose_put"));
}

export const putFile = async (place, file) => put(place, await figures.readFile(file));

/** The pose that another editor begins from: that of the shown map, or nobody. */
function textOf({ pose }, tab) {
  const { width, height } = wantedSize(tab);
  return JSON.stringify(pose || { people: [], canvas_width: width, canvas_height: height });
}

/** The text of a data URL; "", of which the server says that it is none, for anything else. */
function decode(url) {
  if (typeof url !== "string" || !url.startsWith(HEAD)) return "";
  try {
    const text = atob(url.slice(HEAD.length, HEAD.length + 2 * figures.MOST_TEXT));
    return new TextDecoder().decode(Uint8Array.from(text, (letter) => letter.charCodeAt(0)));
  } catch {
    return "";
  }
}

let count = 0;

/** Open the pose editor that another extension serves at an address of this WebUI. */
export async function openOutside({ tab, unit }, address) {
  await frame.prepare(tab);
  const shown = await readUnit(unit);
  const url = new URL(address, location.href);
  if (document.body.classList.contains("dark")) url.searchParams.set("theme", "dark");
  count += 1;
  const modalId = count;
  const message = { modalId, imageURL: shown.photograph || shown.map?.src || "", poseURL: HEAD + btoa(textOf(shown, tab)) };
  const view = make("iframe", { className: "cnet-pose-outside", src: url.href, title: word("pose_outside") });
  const close = button(word("editor_close"), () => box.close());
  const head = make("div", { className: "cnet-editor-head" }, make("h3", {}, word("pose_outside")), close);
  const box = make("dialog", { className: "cnet-editor", "aria-label": word("pose_outside") }, head, view);
  let isTold = false;
  const tell = () => {
    if (isTold || !view.contentWindow) return;
    isTold = true;
    view.contentWindow.postMessage(message, url.origin);
  };
  const hear = ({ data, source, origin }) => {
    if (source !== view.contentWindow || origin !== url.origin || !data || typeof data !== "object") return;
    if (data.ready) tell();
    if (!data.poseURL || String(data.modalId) !== String(modalId)) return;
    const text = find(".cnet-pose-json textarea", unit);
    text.value = decode(data.poseURL);
    text.dispatchEvent(new Event("input", { bubbles: true }));
    find(".cnet-render-pose", unit).click();
    box.close();
  };
  const timer = setTimeout(tell, PATIENCE);
  window.addEventListener("message", hear);
  box.addEventListener("close", () => {
    window.removeEventListener("message", hear);
    clearTimeout(timer);
    box.remove();
    find(".cnet-outside-pose", unit)?.focus();
  });
  (find(".gradio-container") || document.body).append(box);
  box.showModal();
}
