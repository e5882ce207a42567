// Translates the page as the WebUI does: whole texts, titles and placeholders of what is new in
// the page, in the language of the setting "Localization". What changes later stays as it is.
(() => {
    const texts = () => window.localization ?? {};
    const isText = (text) => Boolean(text) && !/^[.\d]+$/.test(text);

    function translateNode(node) {
        const parent = node.parentElement?.nodeName;
        const text = node.textContent.trim();
        if (!isText(text) || ["SCRIPT", "STYLE", "TEXTAREA"].includes(parent)) return;
        if (texts()[text] !== undefined) node.textContent = texts()[text];
    }

    function translate(root) {
        if (root.nodeType === Node.TEXT_NODE) return translateNode(root);
        if (root.nodeType !== Node.ELEMENT_NODE) return undefined;
        for (const name of ["title", "placeholder"]) {
            if (texts()[root[name]] !== undefined) root[name] = texts()[root[name]];
        }
        const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        const nodes = [];
        while (walk.nextNode()) nodes.push(walk.currentNode);
        return nodes.forEach(translateNode);
    }

    document.addEventListener("DOMContentLoaded", () => {
        if (!Object.keys(texts()).length) return;
        onUiUpdate((changes) => changes.forEach((change) => change.addedNodes.forEach(translate)));
        translate(gradioApp());
    });
})();
