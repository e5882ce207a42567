// What is dragged and typed on the timeline: the ends of a unit's window, the window as a whole, and the points
// of its curve, by mouse, finger and key; and the list of curves.
//
// A classic script without globals. What a hand moves is written into the unit's own widgets, which the
// timeline is drawn from: while it is held only into what they show, and for gradio when it is let go.
(() => {
  "use strict";

  const { find, findAll, follow, noteChange, word } = window.controlnetPanel.page;
  const { MOST_FACTOR, MOST_POINTS, at, boxOf, clamp, put, read, readNamed, round, textOf, writeAll } = window.controlnetPanel.curves;
  const { NONE, OWN, SAME, heightOf, describe, hold, numberBox, update } = window.controlnetPanel.timeline;
  /** Least distance between the ends of a window, and between points. */
  const STEP = 0.01;
  const PAGE = 0.1;
  /** Pixels outside its strip beyond which a point is thrown away, and in which a finger's tap is none. */
  const OUT = 36;
  const STILL = 6;

  /** The unit that an element of the timeline is about, its number and pass. */
  function ownerOf(element) {
    const holder = element.closest("[data-unit][data-pass]");
    const [tab] = element.closest('[id$="_controlnet_timeline"]').id.split("_");
    const [number, pass] = [Number(holder.dataset.unit), Number(holder.dataset.pass)];
    return { unit: findAll(`#${tab}_controlnet .cnet-unit`)[number], number, pass, holder };
  }

  // Values of a unit.

  /** The curves of both passes, as they stand; the second is undefined where it is the first's. */
  const curvesOf = (unit) => read(textOf(unit)).passes;

  /** What a unit has before a hand moves it. */
  function remember({ unit, number, pass }) {
    const [start, end] = ["start_control_step", "ending_control_step"].map((name) => numberBox(unit, name).value);
    const curves = curvesOf(unit);
    const points = (pass === 1 && curves[1] !== undefined ? curves[1] : curves[0])?.map((point) => [...point]) ?? null;
    const height = heightOf(describe(unit, number, false));
    return { start: Number(start), end: Number(end), text: textOf(unit), curves, points, height };
  }

  function putWindow(unit, before, [start, end], isDone) {
    for (const [name, value, was] of [["start_control_step", start, before.start], ["ending_control_step", end, before.end]]) {
      put(numberBox(unit, name), `${round(value)}`, isDone && value !== was);
    }
  }

  /** Write the curve of one pass; the other's stays. */
  function putPoints({ unit, pass }, curves, points, isDone) {
    const changed = pass === 1 ? [curves[0], points] : curves[1] === undefined ? [points] : [points, curves[1]];
    put(boxOf(unit), writeAll(changed), isDone);
  }

  /** A window moved by its start, its end, or as a whole. */
  function moveWindow(kind, { start, end }, by) {
    if (kind === "start") return [clamp(round(start + by), 0, Math.max(end - STEP, 0)), end];
    if (kind === "end") return [start, clamp(round(end + by), Math.min(start + STEP, 1), 1)];
    const step = clamp(round(by), -start, 1 - end);
    return [start + step, end + step];
  }

  /** How near a point may come to a neighbour: two at one place are a jump, three are none. */
  const nearest = (next, beyond, step) => (beyond && beyond[0] === next[0] ? next[0] + step : next[0]);

  /** Points with one of them elsewhere, between its neighbours. */
  function movePoint(points, index, share, factor) {
    const least = index ? nearest(points[index - 1], points[index - 2], STEP) : 0;
    const most = index < points.length - 1 ? nearest(points[index + 1], points[index + 2], -STEP) : 1;
    const x = least > most ? points[index][0] : clamp(round(share), least, most);
    return points.map((point, i) => (i === index ? [x, clamp(round(factor), 0, MOST_FACTOR)] : point));
  }

  /** Points with one more, at a share of the steps; the first has one at each end of the window beside it. */
  function addPoint({ unit }, { points, start, end }, share, factor) {
    const x = round(share);
    const plain = points?.length ? points : [[start, 1], [end, 1]];
    if (plain.some((point) => Math.abs(point[0] - x) < STEP)) return points;
    if (plain.length >= MOST_POINTS) {
      window.controlnetPanel.unitTools.sayInUnit(unit, word("curve_full", { count: MOST_POINTS }), true);
      return points;
    }
    return [...plain, [x, clamp(round(factor), 0, MOST_FACTOR)]].sort((a, b) => a[0] - b[0]);
  }

  /** Points without one of them; no curve where what is left changes nothing. */
  function removePoint(points, index) {
    const left = points.filter((_, i) => i !== index);
    return left.some((point) => point[1] !== 1) ? left : null;
  }

  // By mouse and finger.

  let drag = null;

  function beginDrag(event) {
    const held = event.target.closest?.(".cnet-timeline-hand");
    if (!held || event.button > 0 || drag) return;
    const owner = ownerOf(held);
    const box = owner.holder.getBoundingClientRect();
    const picture = held.closest(".cnet-timeline-picture");
    drag = {
      ...{ owner, picture, box, kind: held.dataset.hand, index: Number(held.dataset.point), id: event.pointerId },
      ...{ before: remember(owner), x: event.clientX, y: event.clientY, top: Number(owner.holder.dataset.top) },
      ...{ isMoved: false, isOut: false },
    };
    hold(owner.unit, drag.top);
    held.focus({ preventScroll: true });
    event.preventDefault();
    picture.setPointerCapture(event.pointerId);
  }

  /** Share of the steps and factor under the pointer. */
  function placeOf(event, box, top, height) {
    return [clamp((event.clientX - box.left) / box.width, 0, 1), (((box.bottom - event.clientY) / box.height) * top) / height];
  }

  function isOutside(event, { box, top, before }) {
    const highest = box.bottom - (box.height / top) * Math.max(top, before.height * MOST_FACTOR);
    const sideways = event.clientX < box.left - OUT || event.clientX > box.right + OUT;
    return sideways || event.clientY > box.bottom + OUT || event.clientY < highest - OUT;
  }

  /** Write what the hand holds where the pointer is. */
  function moveHeld(event, isDone) {
    const { owner, kind, index, before, box, top } = drag;
    if (kind !== "point") {
      putWindow(owner.unit, before, moveWindow(kind, before, (event.clientX - drag.x) / box.width), isDone);
    } else {
      drag.isOut = isOutside(event, drag);
      // Where it was taken hold of beside its middle it does not jump.
      const [x0, y0] = placeOf({ clientX: drag.x, clientY: drag.y }, box, top, before.height);
      const [x, y] = placeOf(event, box, top, before.height);
      const [share, factor] = before.points[index];
      const points = drag.isOut ? removePoint(before.points, index) : movePoint(before.points, index, share + x - x0, factor + y - y0);
      putPoints(owner, before.curves, points, isDone);
    }
    update();
  }

  function moveDrag(event) {
    if (!drag || event.pointerId !== drag.id) return;
    drag.isMoved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) >= STILL / 2;
    if (drag.isMoved) moveHeld(event, false);
  }

  function endDrag(event) {
    if (!drag || event.pointerId !== drag.id) return;
    if (drag.isMoved) moveHeld(event, true);
    const { isMoved, owner, kind, isOut } = drag;
    drag = null;
    hold(null);
    update();
    if (isOut) focusHand(owner, "window");
    if (!isMoved && event.pointerType !== "mouse" && kind === "window") addUnder(event, owner, true);
    noteChange();
  }

  /** Everything as before the hand was taken hold of. */
  function cancelDrag() {
    if (!drag) return;
    const { owner, before } = drag;
    drag = null;
    hold(null);
    putWindow(owner.unit, before, [before.start, before.end], false);
    put(boxOf(owner.unit), before.text, false);
    update();
  }

  /** Add a point under the pointer; of a finger's tap only one on the line. */
  function addUnder(event, owner, isTap) {
    const before = remember(owner);
    const box = owner.holder.getBoundingClientRect();
    const [share, factor] = placeOf(event, box, Number(owner.holder.dataset.top), before.height);
    const off = Math.abs(factor - at(before.points, share)) * before.height * (box.height / Number(owner.holder.dataset.top));
    if (isTap && off > OUT / 2) return;
    writePoints(owner, before, addPoint(owner, before, share, factor));
    focusHand(owner, "point", (curvesOf(owner.unit)[owner.pass] ?? curvesOf(owner.unit)[0])?.findIndex((point) => point[0] === round(share)));
  }

  /** Write points at once, as for a key. */
  function writePoints(owner, before, points) {
    putPoints(owner, before.curves, points, true);
    update();
  }

  function focusHand({ holder }, kind, index) {
    const point = index >= 0 ? `[data-point="${index}"]` : "";
    find(`[data-hand=${kind}]${point}`, holder)?.focus();
  }

  // By key.

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1], PageDown: [0, -10], PageUp: [0, 10] };

  /** What a key makes of a window; null where it means nothing to it. */
  function windowByKey(key, kind, before, step) {
    const [x, y] = ARROWS[key] || [];
    if (key === "Home") return moveWindow(kind, before, -1);
    if (key === "End") return moveWindow(kind, before, 1);
    return x === undefined ? null : moveWindow(kind, before, (x + y) * step);
  }

  /** What a key makes of the points of a curve; undefined where it means nothing to one. */
  function pointsByKey(key, points, index, step) {
    const [share, factor] = points[index];
    const [x, y] = ARROWS[key] || [];
    if (key === "Delete" || key === "Backspace") return removePoint(points, index);
    if (key === "Home" || key === "End") return movePoint(points, index, share, key === "Home" ? 0 : MOST_FACTOR);
    return x === undefined ? undefined : movePoint(points, index, share + x * step, factor + y * step);
  }

  /** Add a point in the middle of the widest gap behind a point, or of the window. */
  function addByKey(owner, before, index) {
    const [start, end] = before.points ? [before.points[index]?.[0] ?? 0, before.points[index + 1]?.[0] ?? 1] : [before.start, before.end];
    const share = round((start + end) / 2);
    const points = addPoint(owner, before, share, at(before.points, share));
    writePoints(owner, before, points);
    focusHand(owner, "point", points?.findIndex((point) => point[0] === share));
  }

  function pressKey(event) {
    const held = event.target.closest?.(".cnet-timeline-hand");
    if (event.key === "Escape" && drag) {
      event.stopPropagation();
      cancelDrag();
      return;
    }
    if (!held || event.ctrlKey || event.altKey || event.metaKey) return;
    const owner = ownerOf(held);
    const before = remember(owner);
    const { hand: kind, point } = held.dataset;
    const index = Number(point ?? -1);
    const step = event.shiftKey ? PAGE : STEP;
    if (["Enter", "Insert", "+"].includes(event.key)) {
      addByKey(owner, before, index);
    } else if (kind === "point") {
      const points = pointsByKey(event.key, before.points, index, step);
      if (points === undefined) return;
      writePoints(owner, before, points);
      if (points?.length !== before.points.length) focusHand(owner, points ? "point" : "window", Math.max(index - 1, 0));
    } else {
      const moved = windowByKey(event.key, kind, before, step);
      if (!moved) return;
      putWindow(owner.unit, before, moved, true);
      update();
    }
    event.preventDefault();
    event.stopPropagation();
  }

  // The list of curves.

  function chooseCurve(event) {
    const { value } = event.target;
    if (!event.target.matches(".cnet-timeline-list") || value === OWN) return;
    const owner = ownerOf(event.target);
    const { curves } = remember(owner);
    if (value === SAME) put(boxOf(owner.unit), writeAll([curves[0]]));
    else putPoints(owner, curves, value === NONE ? null : readNamed()[value], true);
    update();
  }

  const answered = new WeakSet();

  /** Answer what is done on a timeline, once it is there. */
  function answer() {
    for (const picture of findAll(".cnet-timeline-picture")) {
      if (answered.has(picture)) continue;
      answered.add(picture);
      const answers = { pointerdown: beginDrag, pointermove: moveDrag, pointerup: endDrag, pointercancel: cancelDrag, keydown: pressKey, change: chooseCurve };
      for (const [name, act] of Object.entries(answers)) picture.addEventListener(name, act);
      picture.addEventListener("dblclick", (event) => {
        const target = document.elementFromPoint(event.clientX, event.clientY); // the event's own is the picture, which held the pointer
        const track = target?.closest(".cnet-timeline-track:not(.cnet-timeline-absent)");
        if (track && !target.closest(".cnet-timeline-point")) addUnder(event, ownerOf(track), false);
      });
    }
  }

  follow(answer);
})();
