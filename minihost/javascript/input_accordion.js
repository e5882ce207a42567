// Joins an accordion with the hidden checkbox that carries its value.

function inputAccordionChecked(id, checked) {
    const accordion = gradioApp().getElementById(id);
    if (accordion && accordion.visibleCheckbox && accordion.visibleCheckbox.checked !== checked) {
        accordion.visibleCheckbox.checked = checked;
        accordion.onVisibleCheckboxChange();
    }
}

function setupInputAccordion(accordion) {
    const labelWrap = accordion.querySelector(".label-wrap");
    const hidden = gradioApp().querySelector(`[id="${accordion.id}-checkbox"] input`);
    const extra = gradioApp().querySelector(`[id="${accordion.id}-extra"]`);
    const label = labelWrap && labelWrap.querySelector("span");
    if (!labelWrap || !hidden || !label) {
        return;
    }
    accordion.dataset.connected = "true";
    const isOpen = () => labelWrap.classList.contains("open");
    const visible = document.createElement("input");
    visible.type = "checkbox";
    visible.checked = isOpen();
    visible.id = `${accordion.id}-visible-checkbox`;
    visible.className = `${hidden.className} input-accordion-checkbox`;
    label.insertBefore(visible, label.firstChild);
    accordion.visibleCheckbox = visible;
    accordion.onVisibleCheckboxChange = () => {
        if (isOpen() !== visible.checked) {
            labelWrap.click();
        }
        if (hidden.checked !== visible.checked) {
            hidden.checked = visible.checked;
            hidden.dispatchEvent(new Event("change", { bubbles: true }));
            updateInput(hidden);
        }
    };
    visible.addEventListener("click", (event) => event.stopPropagation());
    visible.addEventListener("input", accordion.onVisibleCheckboxChange);
    new MutationObserver(() => {
        if (visible.checked !== isOpen()) {
            visible.checked = isOpen();
            accordion.onVisibleCheckboxChange();
        }
    }).observe(labelWrap, { attributes: true, attributeFilter: ["class"] });
    if (extra) {
        labelWrap.insertBefore(extra, labelWrap.lastElementChild);
        extra.style.display = "";
    }
}

onUiUpdate(() => {
    for (const accordion of gradioApp().querySelectorAll(".input-accordion")) {
        if (!accordion.dataset.connected) {
            setupInputAccordion(accordion);
        }
    }
});
