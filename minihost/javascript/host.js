// Functions that the host's page offers to every script: elements, callbacks, tabs.

function gradioApp() {
    const elements = document.getElementsByTagName("gradio-app");
    const element = elements.length === 0 ? document : elements[0];
    if (element !== document && !element.getElementById) {
        element.getElementById = (id) => document.getElementById(id);
    }
    return element.shadowRoot ? element.shadowRoot : element;
}

function get_uiCurrentTab() {
    return gradioApp().querySelector("#tabs > .tab-nav > button.selected");
}

function get_uiCurrentTabContent() {
    return gradioApp().querySelector('#tabs > .tabitem[id^=tab_]:not([style*="display: none"])');
}

const uiUpdateCallbacks = [];
const uiAfterUpdateCallbacks = [];
const uiLoadedCallbacks = [];
const uiTabChangeCallbacks = [];
const optionsChangedCallbacks = [];

let uiAfterUpdateTimeout = null;
let uiCurrentTab = null;
let executedOnLoaded = false;

/** Calls `callback(mutations)` on every change of the page. */
function onUiUpdate(callback) {
    uiUpdateCallbacks.push(callback);
}

/** Calls `callback()` 200 ms after the last of several changes. */
function onAfterUiUpdate(callback) {
    uiAfterUpdateCallbacks.push(callback);
}

/** Calls `callback()` once the page is there. */
function onUiLoaded(callback) {
    uiLoadedCallbacks.push(callback);
}

/** Calls `callback()` when another tab is chosen. */
function onUiTabChange(callback) {
    uiTabChangeCallbacks.push(callback);
}

/** Calls `callback()` whenever the settings were read, at first and after a change. */
function onOptionsChanged(callback) {
    optionsChangedCallbacks.push(callback);
}

function executeCallbacks(queue, arg) {
    for (const callback of queue) {
        try {
            callback(arg);
        } catch (error) {
            console.error("error running callback", callback, ":", error);
        }
    }
}

function scheduleAfterUiUpdateCallbacks() {
    clearTimeout(uiAfterUpdateTimeout);
    uiAfterUpdateTimeout = setTimeout(() => executeCallbacks(uiAfterUpdateCallbacks), 200);
}

document.addEventListener("DOMContentLoaded", () => {
    const observer = new MutationObserver((mutations) => {
        if (!executedOnLoaded && gradioApp().querySelector("#txt2img_prompt")) {
            executedOnLoaded = true;
            executeCallbacks(uiLoadedCallbacks);
        }
        executeCallbacks(uiUpdateCallbacks, mutations);
        scheduleAfterUiUpdateCallbacks();
        const newTab = get_uiCurrentTab();
        if (newTab && newTab !== uiCurrentTab) {
            uiCurrentTab = newTab;
            executeCallbacks(uiTabChangeCallbacks);
        }
    });
    observer.observe(gradioApp(), { childList: true, subtree: true });
});

/** Tells gradio that a script set the value of an input. */
function updateInput(target) {
    target.dispatchEvent(new Event("input", { bubbles: true }));
}

/** Whether an element is shown. */
function uiElementIsVisible(el) {
    if (el === document) {
        return true;
    }
    const style = getComputedStyle(el);
    return style.display !== "none" && (!el.parentNode || uiElementIsVisible(el.parentNode));
}

// Ctrl+Enter generates, Esc interrupts.
document.addEventListener("keydown", (e) => {
    const tab = get_uiCurrentTabContent();
    if (!tab) {
        return;
    }
    if (e.key === "Enter" && (e.metaKey || e.ctrlKey || e.altKey)) {
        const button = tab.querySelector("button[id$=_generate]");
        if (button) {
            button.click();
            e.preventDefault();
        }
    }
    if (e.key === "Escape") {
        const button = tab.querySelector("button[id$=_interrupt]");
        if (button && uiElementIsVisible(button)) {
            button.click();
        }
    }
});

// Settings, as the server wrote them into a hidden text box.
let opts = {};
let optionsText = "";

function readOptions() {
    const textarea = gradioApp().querySelector("#settings_json textarea");
    if (!textarea || textarea.value === optionsText) {
        return;
    }
    optionsText = textarea.value;
    opts = JSON.parse(optionsText);
    executeCallbacks(optionsChangedCallbacks);
}

onUiUpdate(readOptions);
onUiLoaded(() => setInterval(readOptions, 500));

// Tooltips: `tooltip=` of a component arrives in the page's configuration.
let tooltipsDone = false;
onAfterUiUpdate(() => {
    if (tooltipsDone || !window.gradio_config || !window.gradio_config.components) {
        return;
    }
    for (const component of window.gradio_config.components) {
        const { elem_id: id, webui_tooltip: tooltip } = component.props || {};
        const element = id && tooltip && gradioApp().querySelector(`[id="${id}"]`);
        if (element) {
            element.title = tooltip;
            tooltipsDone = true;
        }
    }
});
