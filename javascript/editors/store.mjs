// What the editors keep: the states of a map while it is made, and what is left of it for the next
// time, in the browser's own storage.

const DATABASE = "controlnet-editors";
const STORE = "maps";
/** States that can be gone back to, and how many bytes they may have. */
const MOST_STATES = 100;
const MOST_BYTES = 128e6;

let opened;
function openDatabase() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function carryOut(mode, act) {
  const database = await openDatabase();
  return new Promise((resolve, reject) => {
    const change = database.transaction(STORE, mode);
    const request = act(change.objectStore(STORE));
    change.oncomplete = () => resolve(request.result);
    change.onerror = change.onabort = () => reject(change.error);
  });
}

/** What was kept under a name; undefined for nothing. */
export const read = (name) => carryOut("readonly", (store) => store.get(name));
/** Keep something, which can be cloned, under a name. */
export const write = (name, value) => carryOut("readwrite", (store) => store.put(value, name));

/** All that is kept under names with a beginning: a map of names. */
export async function readAll(start) {
  const names = await carryOut("readonly", (store) => store.getAllKeys(IDBKeyRange.bound(start, `${start}\uffff`)));
  return new Map(await Promise.all(names.map(async (name) => [name, await read(name)])));
}

/** Keep what stands under each name, all or nothing; undefined takes it away. */
export const writeAll = (values) =>
  carryOut("readwrite", (store) => {
    for (const [name, value] of values) {
      if (value === undefined) store.delete(name);
      else store.put(value, name);
    }
    return store.count();
  });

/** Bytes of a state: of its typed arrays, each once however often it is in it. */
function measure(state) {
  const seen = new Set();
  let sum = 0;
  const look = (value) => {
    if (typeof value === "string") sum += value.length;
    if (!value || typeof value !== "object" || seen.has(value)) return;
    seen.add(value);
    if (ArrayBuffer.isView(value)) sum += value.byteLength;
    else Object.values(value).forEach(look);
  };
  look(state);
  return sum;
}

/** States one after the other; what was undone can be done again until something else is. */
export class History {
  /** With the state that it begins with; `weigh` gives the bytes of one. */
  constructor(state, weigh = measure) {
    this.weigh = weigh;
    this.states = [state];
    this.at = 0;
  }

  add(state) {
    this.states.splice(this.at + 1, Infinity, state);
    let bytes = 0;
    const first = this.states.findLastIndex((one, i) => (bytes += this.weigh(one)) > MOST_BYTES && i < this.states.length - 1);
    this.states.splice(0, Math.max(first + 1, this.states.length - MOST_STATES));
    this.at = this.states.length - 1;
  }

  get present() {
    return this.states[this.at];
  }

  get canUndo() {
    return this.at > 0;
  }

  get canRedo() {
    return this.at < this.states.length - 1;
  }

  /** Go some states back (-1) or forth; the state there. */
  go(step) {
    this.at = Math.min(Math.max(this.at + step, 0), this.states.length - 1);
    return this.present;
  }
}
