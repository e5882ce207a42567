// What was made in the editors goes along when units are moved, copied or cleared.
//
// It is kept by tab, unit and tool, or for a tool of all units by tab and tool (store.mjs). Such a tool tells what of its
// state is a unit's: `partOf(kept, unit)`, and `withPart(kept, unit, part)` where part is null for none.

const stamp = new URL(import.meta.url).search;
const load = (file) => import(new URL(file + stamp, import.meta.url));

const NOTHING = { own: [], shared: [] };

/** What is kept for a unit: { own: [[tool, kept]], shared: [[tool, part]] }. */
function take(found, tools, tab, unit) {
  const start = `${tab}/${unit}/`;
  const own = [...found].filter(([name]) => name.startsWith(start)).map(([name, kept]) => [name.slice(start.length), kept]);
  const shared = [...tools].map(([tool, module]) => [tool, module.partOf(found.get(`${tab}/${tool}`), unit)]);
  return { own, shared };
}

/**
 * Give units of a tab other maps: [{ unit, maps }], see `controlnetPanel.edit`.
 *
 * `maps` is null for none, else { unit, kept, isFormer }: those of a unit at this moment or, with `kept`, of an earlier
 * one. With `isFormer` an editor begins anew, one step of undo behind it. Returns what each of the units had before.
 */
export async function move(tab, moves) {
  const store = await load("store.mjs");
  const found = await store.readAll(`${tab}/`);
  const names = [...found.keys()].map((name) => name.split("/")).filter((parts) => parts.length === 2);
  const tools = new Map(await Promise.all(names.map(async ([, tool]) => [tool, await load(`${tool}.mjs`)])));
  const written = new Map();
  const before = new Map(moves.map(({ unit }) => [unit, take(found, tools, tab, unit)]));
  for (const { unit, maps } of moves) {
    const { own, shared } = maps ? (maps.kept ?? take(found, tools, tab, maps.unit)) : NOTHING;
    const mark = (kept) => (maps?.isFormer ? { ...kept, isFormer: true } : kept);
    const parts = new Map(shared);
    for (const [tool] of before.get(unit).own) written.set(`${tab}/${unit}/${tool}`, undefined);
    for (const [tool, kept] of own) written.set(`${tab}/${unit}/${tool}`, mark(kept));
    for (const [tool, module] of tools) {
      const name = `${tab}/${tool}`;
      const kept = written.get(name) ?? found.get(name);
      written.set(name, mark(module.withPart(kept, unit, parts.get(tool) ?? null)));
    }
  }
  await store.writeAll(written);
  return before;
}
