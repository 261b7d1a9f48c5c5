// The tree of a flame graph: where its nodes lie. Pure, without a page.

/** Kinds, as the agent numbers them. */
export const KIND = { process: 0, user: 1, userInlined: 2, jit: 3, kernel: 4, kernelInlined: 5, cut: 6, other: 7, wait: 8 };

export class Tree {
  /** From the agent's flat arrays: nodes in drawing order, each with its depth. Row 0 is everything, processes are row 1. */
  constructor(flame, total) {
    const count = flame.name.length + 1;
    this.names = [...flame.names, "everything"];
    this.name = new Uint32Array(count);
    this.depth = new Uint16Array(count);
    this.kind = new Uint8Array(count);
    this.total = new Float64Array(count);
    this.own = new Float64Array(count);
    this.start = new Float64Array(count);
    this.parent = new Int32Array(count).fill(-1);
    /** The first node behind a node and all that is below it. */
    this.end = new Int32Array(count);
    /** Nodes of each row, from left to right. */
    this.rows = [[0]];
    this.name[0] = flame.names.length;
    this.total[0] = total;
    const open = [0];
    const cursor = [0];
    for (let node = 1; node < count; node += 1) {
      const depth = flame.depth[node - 1] + 1;
      while (open.length > depth) this.end[open.pop()] = node;
      cursor.length = depth;
      const start = cursor[depth - 1];
      this.name[node] = flame.name[node - 1];
      this.depth[node] = depth;
      this.kind[node] = flame.kind[node - 1];
      this.total[node] = flame.total[node - 1];
      this.own[node] = flame.own[node - 1];
      this.start[node] = start;
      this.parent[node] = open[depth - 1];
      cursor[depth - 1] = start + this.total[node];
      cursor.push(start);
      open.push(node);
      (this.rows[depth] ??= []).push(node);
    }
    while (open.length > 0) this.end[open.pop()] = count;
  }

  get count() {
    return this.name.length;
  }

  label(node) {
    return this.names[this.name[node]];
  }

  /** Nodes of a row that touch a span of values: binary search for the first, then on. */
  *within(row, from, to) {
    const nodes = this.rows[row] ?? [];
    let low = 0;
    let high = nodes.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.start[nodes[middle]] + this.total[nodes[middle]] <= from) low = middle + 1;
      else high = middle;
    }
    for (; low < nodes.length && this.start[nodes[low]] < to; low += 1) yield nodes[low];
  }

  /** The node at a place, or -1. */
  at(row, value) {
    for (const node of this.within(row, value, value + Number.EPSILON * Math.max(1, value) * 2)) return node;
    return -1;
  }

  /** The way to a node, from the top, in words that outlive this tree. */
  path(node) {
    const steps = [];
    for (; node > 0; node = this.parent[node]) steps.push(`${this.kind[node]} ${this.label(node)}`);
    return steps.reverse();
  }

  /** The node that a path leads to, as far as it goes. */
  find(path) {
    let node = 0;
    for (const step of path) {
      const next = this.children(node).find((child) => `${this.kind[child]} ${this.label(child)}` === step);
      if (next === undefined) return node;
      node = next;
    }
    return node;
  }

  children(node) {
    const found = [];
    for (let child = node + 1; child < this.end[node]; child = this.end[child]) found.push(child);
    return found;
  }

  /** Nodes whose name holds a text in any case, and how much of everything they are; what is in another match counts once. */
  matches(text) {
    const wanted = text.toLowerCase();
    const isNamed = this.names.map((name) => name.toLowerCase().includes(wanted));
    const nodes = new Set();
    let sum = 0;
    let behind = 0;
    for (let node = 1; node < this.count; node += 1) {
      if (!isNamed[this.name[node]]) continue;
      nodes.add(node);
      if (node >= behind) {
        sum += this.total[node];
        behind = this.end[node];
      }
    }
    return { nodes, sum };
  }

  /** The deepest row below a node. */
  deepest(node) {
    let deepest = this.depth[node];
    for (let at = node; at < this.end[node]; at += 1) deepest = Math.max(deepest, this.depth[at]);
    return deepest;
  }
}
