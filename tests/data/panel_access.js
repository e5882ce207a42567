// What is wrong with a part of the page, for tests/http/test_panel_access.py.
window.panelAccess = (() => {
  const CONTROLS = "button, a, summary, input:not([type=file]), textarea, [role=button], [role=tab], [role=slider]";
  const ALSO = ".cnet-timeline-window"; // what its ends and keys move as well
  const ROOM = { "[role=application]": [200, 200], ".cnet-timeline-track": [80, 28] }; // pixels of what is drawn on
  const BOXED = "label:has(:is([type=radio], [type=checkbox]))"; // pressed all over
  const DRAWN = "iframe, canvas, svg, [class*=timeline]";
  const isSeen = (element) => element.checkVisibility({ visibilityProperty: true });
  const all = (root, selector) => Array.from(document.querySelectorAll(`${root} :is(${selector})`)).filter(isSeen);
  const show = (element) => element.outerHTML.slice(0, 160);

  /** What axe-core finds, by all of its rules or some. */
  async function findFaults(root, rules) {
    const only = rules ? { runOnly: rules } : {};
    const { violations } = rules?.length === 0 ? { violations: [] } : await axe.run(root, { resultTypes: ["violations"], ...only });
    return violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${node.html.slice(0, 160)} ${node.failureSummary}`));
  }

  /** What is pressed and smaller than so many pixels. */
  function findSmall(root, least) {
    return all(root, `:is(${CONTROLS}):not(${ALSO})`)
      .map((element) => [element, (element.closest(BOXED) || element).getBoundingClientRect()])
      .filter(([, box]) => box.width && Math.min(box.width, box.height) < least - 0.5)
      .map(([element, box]) => `small: ${show(element)} ${box.width} x ${box.height}`);
  }

  /** What is drawn on and has no room for that. */
  function findNarrow(root) {
    const isNarrow = ({ offsetWidth, offsetHeight }, [width, height]) => offsetWidth < width || offsetHeight < height;
    return Object.entries(ROOM).flatMap(([selector, least]) => all(root, selector).filter((element) => isNarrow(element, least)).map((element) => `narrow: ${show(element)}`));
  }

  /** Whether it is in something that is moved sideways, or up and down. */
  function isScrolled(element, way = "overflowX") {
    for (let outer = element.parentElement; outer; outer = outer.parentElement) {
      if (["auto", "scroll"].includes(getComputedStyle(outer)[way]) && outer.closest(".cnet-unit, dialog, [id$=_controlnet]")) return true;
    }
    return false;
  }

  /** What lies outside the window, or has no room for what is in it. */
  function findCut(root) {
    const isCut = (element) => {
      if (element.closest(DRAWN) || isScrolled(element)) return false;
      const box = element.getBoundingClientRect();
      if (box.width > 1 && (box.right > innerWidth + 1 || box.left < -1)) return true;
      if (element.closest("dialog") && box.bottom > innerHeight + 1 && !isScrolled(element, "overflowY")) return true;
      const hides = getComputedStyle(element).overflowX === "hidden" && element.tagName !== "INPUT";
      return hides && element.scrollWidth > element.clientWidth + 1;
    };
    return all(root, "*").filter(isCut).map((element) => `cut: ${show(element)}`);
  }

  return async (root, least, rules) => [
    ...(await findFaults(root, rules)),
    ...findSmall(root, least),
    ...findNarrow(root),
    ...findCut(root),
  ];
})();
