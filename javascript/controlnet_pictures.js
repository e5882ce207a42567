// Ways in which a picture comes into a unit: several dropped at once, the camera, mirrored, a map
// as input, and from the galleries of the page.
//
// A classic script without globals; it writes through `controlnetPanel.edit`.
(() => {
  "use strict";

  const { TABS, find, findAll, follow, isShown, load, unitsOf, word } = window.controlnetPanel.page;
  const KINDS = /^image\/(png|jpeg|webp|bmp|gif)$/;

  const tools = () => window.controlnetPanel.unitTools;
  const pictureIn = (selector, root) => find(`${selector} img[src]:not([src=""])`, root);

  // Pictures as data URLs.

  function read(blob) {
    return new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(blob);
    });
  }

  function draw(image, width, height, isMirrored = false) {
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const pen = canvas.getContext("2d");
    if (isMirrored) {
      pen.translate(width, 0);
      pen.scale(-1, 1);
    }
    pen.drawImage(image, 0, 0, width, height);
    return canvas.toDataURL("image/png");
  }

  /** A file or the address of a picture -> a data URL that the server can read. */
  async function dataUrl(source) {
    const blob = source instanceof Blob ? source : await (await fetch(source)).blob();
    const url = await read(blob);
    const image = await load(url);
    return KINDS.test(blob.type) ? url : draw(image, image.naturalWidth, image.naturalHeight);
  }

  async function mirrored(source) {
    if (!source) return null;
    const image = await load(source);
    return draw(image, image.naturalWidth, image.naturalHeight, true);
  }

  // Into a unit.

  /** Put a picture into a unit, which takes it as its own and is enabled. */
  async function putPicture(tab, index, image) {
    const unit = tools().unitsOf(tab)[index];
    const own = find(".cnet-unit-same_img2img input", unit);
    if (tab === "img2img" && own && !own.checked) own.click();
    const single = find(".cnet-input-tabs > .tab-nav > button", unit);
    if (single && !single.classList.contains("selected")) single.click();
    await window.controlnetPanel.edit(tab, () => [{ unit: index, pictures: { image, drawing: null } }]);
    tools().setEnabled(unit, true);
  }

  async function mirror(unit) {
    const { tab, index } = tools().placeOf(unit);
    let isEmpty = false;
    try {
      let now;
      await window.controlnetPanel.edit(tab, (units) => {
        now = units[index].pictures;
        return [];
      });
      isEmpty = !now.image;
      if (isEmpty) throw new Error(word("mirror_nothing"));
      const [image, drawing] = await Promise.all([mirrored(now.image), mirrored(now.drawing)]);
      const pictures = { image, drawing, isCanvas: now.isCanvas };
      const lost = await window.controlnetPanel.edit(tab, () => [{ unit: index, pictures }]);
      tools().sayInUnit(unit, lost.join(" "), lost.length > 0);
    } catch (error) {
      tools().sayInUnit(unit, error.message, true);
    }
  }

  /**
   * Make a map, a data URL, the picture of a unit as it is: enabled, and without a preprocessor.
   *
   * What was there comes back with a button.
   */
  async function putMap(unit, image, text) {
    const { tab, index } = tools().placeOf(unit);
    const settings = { module: "none", independent: true, input_mode: "simple", enabled: true };
    const plan = (units) => [
      { unit: index, pictures: { image, drawing: null }, values: { ...units[index].values, ...settings } },
    ];
    await tools().change(tab, plan, unit, text, word("map_back"));
  }

  async function useMap(unit) {
    const map = pictureIn(".cnet-generated-image-group", unit);
    try {
      await putMap(unit, await dataUrl(map.src), word("map_used"));
    } catch (error) {
      tools().sayInUnit(unit, word("send_unread", { error: error.message }), true);
    }
  }

  // The camera.

  function nameFault(error) {
    if (!navigator.mediaDevices) return word("webcam_unsafe");
    if (error.name === "NotFoundError" || error.name === "OverconstrainedError") return word("webcam_none");
    if (error.name === "NotAllowedError" || error.name === "SecurityError") return word("webcam_refused");
    return word("webcam_failed", { error: error.name || error.message });
  }

  function closeCamera(view) {
    for (const track of find("video", view).srcObject?.getTracks() || []) track.stop();
    view.remove();
  }

  async function openCamera(unit, button) {
    const present = find(".cnet-camera", unit);
    if (present) {
      closeCamera(present);
      return;
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: true, audio: false });
    } catch (error) {
      tools().sayInUnit(unit, nameFault(error), true);
      return;
    }
    const video = Object.assign(document.createElement("video"), { autoplay: true, muted: true, playsInline: true });
    video.setAttribute("aria-label", word("webcam_view"));
    video.srcObject = stream;
    const view = document.createElement("div");
    view.className = "cnet-camera";
    const take = async () => {
      const { videoWidth: width, videoHeight: height } = video;
      if (!width) return; // it has shown nothing yet
      const image = draw(video, width, height, video.classList.contains("cnet-mirrored"));
      closeCamera(view);
      button.focus();
      const { tab, index } = tools().placeOf(unit);
      await putPicture(tab, index, image).catch((error) => tools().sayInUnit(unit, error.message, true));
    };
    const cancel = () => {
      closeCamera(view);
      button.focus();
    };
    const takeButton = tools().makeButton(word("webcam_take"), take, { classes: ["cnet-tools-button", "cnet-camera-take"] });
    const buttons = document.createElement("div");
    buttons.append(takeButton, tools().makeButton(word("webcam_cancel"), cancel));
    view.append(video, buttons);
    view.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      cancel();
    });
    find(".controlnet_image_controls", unit).before(view);
    tools().sayInUnit(unit, "");
    takeButton.focus();
  }

  /** The mirror turns what the camera shows while that is open, and else the unit's picture. */
  function pressMirror(unit) {
    const video = find(".cnet-camera video", unit);
    if (video) video.classList.toggle("cnet-mirrored");
    else mirror(unit);
  }

  function addPictureButtons(unit) {
    const row = find(".controlnet_image_controls", unit);
    if (!row || find(".cnet-webcam", row)) return;
    const name = find(".cnet-input-image-group .cnet-image", unit).id.replace(/_input_image$/, "");
    const add = (kind, suffix, sign, act) => {
      const title = word(kind === "webcam" ? "webcam" : "mirror");
      const properties = { id: `${name}_controlnet_webcam_${suffix}`, title, "aria-label": title };
      const classes = ["lg", "secondary", "gradio-button", "tool", "cnet-tool", `cnet-${kind}`];
      const button = tools().makeButton(sign, () => act(button), { ...properties, classes });
      row.append(button);
    };
    add("webcam", "enable", "\u{1F4F7}", (button) => openCamera(unit, button));
    add("mirror", "mirror", "\u21C4", () => pressMirror(unit));
  }

  // From a map, and from galleries.

  /** What can be sent to: [text, tab, number]. */
  function targets() {
    return TABS.flatMap((tab) => tools().unitsOf(tab).map((_, unit) => [word("send_unit", { tab, unit }), tab, unit]));
  }

  /** A menu that sends the picture that `pick` finds to a unit; `say` tells what came of it. */
  function makeSender(text, pick, say) {
    const send = async (tab, unit) => {
      const image = pick();
      if (!image) {
        say(word("send_nothing"), true);
        return;
      }
      try {
        await putPicture(tab, unit, await dataUrl(image.src));
        say(word("send_done", { tab, unit }), false);
      } catch (error) {
        say(word("send_unread", { error: error.message }), true);
      }
    };
    const menu = tools().makeMenu(text, () => targets().map(([name, tab, unit]) => [name, () => send(tab, unit)]));
    menu.classList.add("cnet-send");
    return menu;
  }

  /** The picture that is open in a gallery or, in the overview, chosen there; else the first one. */
  function chosenIn(gallery) {
    const places = [".preview img[data-testid=detailed-image]", ".preview > button img", ".preview > img"];
    const chosen = [...places, ".thumbnail-item.selected img", ".grid-wrap img", "img"];
    return chosen.map((place) => find(place, gallery)).find((image) => image?.getAttribute("src")) || null;
  }

  /** The rows under galleries; like all that gradio builds they are there from the beginning. */
  let rows = [];
  function addSenders() {
    if (!rows.length || !rows[0].isConnected) rows = findAll('[id^="image_buttons_"]');
    for (const row of rows) {
      if (find(".cnet-send", row)) continue;
      const gallery = `#${row.id.replace("image_buttons_", "")}_gallery`;
      const line = document.createElement("div");
      line.className = "cnet-send-said";
      line.setAttribute("role", "status");
      const say = (text, isFault) => {
        line.textContent = text;
        line.classList.toggle("cnet-send-fault", isFault);
      };
      const menu = makeSender(word("send"), () => find(gallery) && chosenIn(find(gallery)), say);
      row.append(menu, line);
    }
  }

  function addMapButtons(unit) {
    const group = find(".cnet-generated-image-control-group", unit);
    if (!group || find(".cnet-use-map", group)) return;
    const say = (text, isFault) => tools().sayInUnit(unit, text, isFault);
    const pick = () => pictureIn(".cnet-generated-image-group", unit);
    const use = tools().makeButton(word("use_map"), () => useMap(unit), { classes: ["cnet-tools-button", "cnet-use-map"] });
    (find(":scope > div", group) || group).prepend(use, makeSender(word("send_map"), pick, say));
  }

  // Several at once.

  /** Several files for a unit: the first is for it, the others for units behind it without a picture. */
  /**
   * Put files into units of a tab, one each, as far as there are both.
   *
   * `findPlaces` gives the numbers of the units. Returns what went where, what had no room and what is no picture,
   * as a sentence, and whether anything was left.
   */
  async function putFiles(tab, files, findPlaces) {
    const read = await Promise.all(files.map((file) => dataUrl(file).catch(() => null)));
    const pictures = files.map((file, i) => [file.name, read[i]]);
    const others = pictures.filter(([, url]) => !url).map(([name]) => name);
    const left = pictures.filter(([, url]) => url);
    const said = [];
    let fault = "";
    for (const place of findPlaces().slice(0, left.length)) {
      const [name, url] = left.shift();
      try {
        await putPicture(tab, place, url);
        said.push(word("drop_went", { name, unit: place }));
      } catch (error) {
        fault = error.message;
      }
    }
    if (left.length) said.push(word("drop_no_room", { names: left.map(([name]) => name).join(", ") }));
    if (others.length) said.push(word("drop_no_picture", { names: others.join(", ") }));
    if (fault) said.push(fault);
    return { text: said.length ? `${said.join("; ")}.` : "", isFault: Boolean(fault || left.length || others.length) };
  }

  const isEmpty = (unit) => !pictureIn(".cnet-input-image-group .cnet-image", unit);

  /** Several files that were dropped on a unit: the first is its, the others go to those behind it without a picture. */
  async function share(unit, files) {
    const { tab, index } = tools().placeOf(unit);
    const units = tools().unitsOf(tab);
    const behind = () => [...units.keys()].filter((i) => i > index && isEmpty(units[i]));
    const { text, isFault } = await putFiles(tab, files, () => [index, ...behind()]);
    tools().sayInUnit(unit, text, isFault);
  }

  function takeDrop(event) {
    const widget = event.target.closest?.(".cnet-input-image-group .cnet-image");
    const files = Array.from(event.dataTransfer?.files || []);
    if (!widget || files.length < 2) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    share(widget.closest(".cnet-unit"), files);
  }

  function update() {
    addSenders();
    for (const unit of TABS.flatMap(unitsOf)) {
      if (!isShown(unit)) continue;
      addPictureButtons(unit);
      addMapButtons(unit);
    }
  }

  document.addEventListener("drop", takeDrop, true);
  Object.assign(window.controlnetPanel, { dataUrl, putFiles, putMap });
  follow(update, { calmly: true });
})();
