// What the page's buttons call before the server is asked.

function switchToTab(index, inner) {
    gradioApp().querySelectorAll("#tabs > .tab-nav > button")[index].click();
    if (inner !== undefined) {
        gradioApp().querySelectorAll("#mode_img2img > .tab-nav > button")[inner].click();
    }
    return Array.from(arguments).slice(2);
}

function switch_to_txt2img() {
    switchToTab(0);
    return Array.from(arguments);
}

function switch_to_img2img() {
    switchToTab(1, 0);
    return Array.from(arguments);
}

function switch_to_inpaint() {
    switchToTab(1, 2);
    return Array.from(arguments);
}

function get_tab_index(tabId) {
    const buttons = gradioApp().getElementById(tabId).querySelector("div").querySelectorAll("button");
    return Math.max(0, Array.from(buttons).findIndex((x) => x.classList.contains("selected")));
}

function all_gallery_buttons() {
    const found = gradioApp().querySelectorAll('[id$="_gallery"] .thumbnails > .thumbnail-item');
    return Array.from(found).filter((x) => x.offsetParent !== null);
}

function selected_gallery_index() {
    return all_gallery_buttons().findIndex((x) => x.classList.contains("selected"));
}

function extract_image_from_gallery(gallery) {
    if (!gallery || gallery.length === 0) {
        return [null];
    }
    const index = selected_gallery_index();
    return [gallery[index < 0 || index >= gallery.length ? 0 : index]];
}

function setSubmitButtons(tabname, { interrupt, interrupting, submit }) {
    const show = (name, visible) => {
        const button = gradioApp().getElementById(`${tabname}_${name}`);
        if (button) {
            button.style.display = visible ? "block" : "none";
        }
    };
    show("interrupt", interrupt);
    show("skip", interrupt || interrupting);
    show("interrupting", interrupting);
    show("generate", submit);
}

function showSubmitButtons(tabname, show) {
    setSubmitButtons(tabname, { interrupt: !show, interrupting: false, submit: show });
}

function showInterruptingButtons(tabname) {
    setSubmitButtons(tabname, { interrupt: false, interrupting: true, submit: false });
}

function startTask(tabname) {
    showSubmitButtons(tabname, false);
    const id = randomId();
    requestProgress(
        id,
        gradioApp().getElementById(`${tabname}_gallery_container`),
        gradioApp().getElementById(`${tabname}_gallery`),
        () => showSubmitButtons(tabname, true)
    );
    return id;
}

// gradio passes the outputs' values behind the inputs'; the old pictures need not travel.
function submitArguments(args) {
    const res = Array.from(args);
    if (Array.isArray(res[res.length - 4])) {
        res[res.length - 4] = null;
    }
    return res;
}

function submit() {
    const res = submitArguments(arguments);
    res[0] = startTask("txt2img");
    return res;
}

function submit_txt2img_upscale() {
    const res = submitArguments(arguments);
    res[0] = startTask("txt2img");
    res[2] = selected_gallery_index();
    return res;
}

function submit_img2img() {
    const res = submitArguments(arguments);
    res[0] = startTask("img2img");
    res[1] = get_tab_index("mode_img2img");
    return res;
}

// After Reload UI the page comes back when the server answers again.
function restart_reload() {
    document.body.innerHTML = '<h1 class="reloading">Reloading...</h1>';
    const ask = async () => {
        try {
            const response = await fetch("./internal/ping");
            if (response.ok) {
                location.reload();
                return;
            }
        } catch (error) {
            // The server is on its way.
        }
        setTimeout(ask, 500);
    };
    setTimeout(ask, 2000);
    return [];
}

// The infotext under the gallery follows the selected picture.
onAfterUiUpdate(() => {
    for (const tabname of ["txt2img", "img2img"]) {
        const gallery = gradioApp().getElementById(`${tabname}_gallery`);
        if (!gallery || gallery.dataset.watched) {
            continue;
        }
        gallery.dataset.watched = "true";
        let last = -1;
        new MutationObserver(() => {
            const index = selected_gallery_index();
            if (index !== last && get_uiCurrentTabContent()?.contains(gallery)) {
                last = index;
                gradioApp().getElementById(`${tabname}_generation_info_button`)?.click();
            }
        }).observe(gallery, { subtree: true, attributes: true, attributeFilter: ["class"] });
    }
});

// Size of the picture that the hires pass will give.
function hiresSize() {
    const number = (id) => Number(gradioApp().querySelector(`#${id} input[type=number]`)?.value || 0);
    const [width, height] = [number("txt2img_width"), number("txt2img_height")];
    const [x, y] = [number("txt2img_hr_resize_x"), number("txt2img_hr_resize_y")];
    if (x && y) {
        return [width, height, x, y];
    }
    if (x || y) {
        return x
            ? [width, height, x, Math.floor((x * height) / width)]
            : [width, height, Math.floor((y * width) / height), y];
    }
    const scale = number("txt2img_hr_scale");
    return [width, height, Math.floor(width * scale), Math.floor(height * scale)];
}

onUiLoaded(() => {
    setInterval(() => {
        const box = gradioApp().querySelector("#txtimg_hr_finalres .prose, #txtimg_hr_finalres");
        const enabled = gradioApp().querySelector("#txt2img_hr .label-wrap.open");
        if (!box) {
            return;
        }
        const [w, h, x, y] = hiresSize();
        const text = enabled ? `from ${w}x${h} to ${x}x${y}` : "";
        if (box.textContent.trim() !== text) {
            box.textContent = text;
        }
    }, 500);
});
