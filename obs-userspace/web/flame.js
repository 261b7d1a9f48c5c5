// The flame graph: draws a tree on a canvas, everything on top; zooms, searches, tells what is under the pointer or the focus.

import { KIND, Tree } from "./layout.js";

const ROW = 18;
const FONT = "12px system-ui, sans-serif";
/** Narrower nodes are not drawn, in pixels. */
const WIDTH_MIN = 0.4;
/** Narrower nodes have no text, in pixels. */
const TEXT_WIDTH_MIN = 24;
/** No character is wider, in pixels: texts that fit for sure need not be measured. */
const WIDEST = 14;
/** Least height of the graph, in pixels, and its most in shares of the window's height. */
const HEIGHT_MIN = 180;
const HEIGHT_SHARE_MAX = 0.65;

function hash(text) {
  let value = 2166136261;
  for (let at = 0; at < text.length; at += 1) value = Math.imul(value ^ text.charCodeAt(at), 16777619);
  return (value >>> 0) / 4294967296;
}

/** Hue, saturation and lightness per kind; names vary it a little. */
function colour(kind, name, isDark) {
  const shade = hash(name);
  const light = isDark ? 60 : 72;
  switch (kind) {
    case KIND.user: return `hsl(${20 + 25 * shade} ${70 + 15 * shade}% ${light - 4 + 8 * shade}%)`;
    case KIND.userInlined: return `hsl(${38 + 14 * shade} 70% ${light + 2 + 8 * shade}%)`;
    case KIND.jit: return `hsl(${110 + 30 * shade} 40% ${light - 2 + 8 * shade}%)`;
    case KIND.kernel: return `hsl(${212 + 20 * shade} 60% ${light + 8 * shade}%)`;
    case KIND.kernelInlined: return `hsl(${190 + 15 * shade} 50% ${light + 2 + 8 * shade}%)`;
    case KIND.process: return `hsl(260 8% ${light - 4 + 10 * shade}%)`;
    case KIND.wait: return `hsl(${300 + 30 * shade} 35% ${light + 4 * shade}%)`;
    case KIND.cut: return `hsl(350 45% ${light}%)`;
    default: return `hsl(0 0% ${light + 4}%)`;
  }
}

export class FlameGraph {
  /** `told(node)` is called with what is under the pointer or the focus, `zoomed(isZoomed)` when that changes. */
  constructor({ canvas, scroll, spacer, told, zoomed }) {
    Object.assign(this, { canvas, scroll, spacer, told, zoomed });
    this.context = canvas.getContext("2d");
    this.tree = new Tree({ names: [], name: [], depth: [], kind: [], total: [], own: [] }, 0);
    this.zoom = 0;
    this.focus = 0;
    this.hover = -1;
    this.found = new Set();
    this.text = "";
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(scroll);
    scroll.addEventListener("scroll", () => this.draw(), { passive: true });
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("pointerleave", () => this.leave());
    canvas.addEventListener("click", (event) => this.click(event));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.draw());
    canvas.addEventListener("focus", () => this.draw());
  }

  /** Shows another tree; zoom and focus stay where they were, if that is still there. */
  show(flame, total) {
    const zoom = this.tree.path(this.zoom);
    const focus = this.tree.path(this.focus);
    this.tree = new Tree(flame, total);
    this.zoom = this.tree.find(zoom);
    this.focus = this.tree.find(focus);
    this.hover = -1;
    this.search(this.text);
    this.zoomed(this.zoom !== 0);
  }

  /** Marks what has a text in its name; returns how much that is. */
  search(text) {
    this.text = text;
    const { nodes, sum } = text ? this.tree.matches(text) : { nodes: new Set(), sum: 0 };
    this.found = nodes;
    this.draw();
    return sum;
  }

  zoomTo(node) {
    this.zoom = node;
    this.focus = node;
    this.scroll.scrollTop = Math.max(0, (this.tree.depth[node] - 3) * ROW);
    this.zoomed(node !== 0);
    this.draw();
  }

  /** From values to pixels. */
  scale() {
    const whole = this.tree.total[this.zoom];
    return { from: this.tree.start[this.zoom], whole, width: this.scroll.clientWidth };
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  paint() {
    const { canvas, context, tree, scroll } = this;
    const { from, whole, width } = this.scale();
    const rows = tree.deepest(this.zoom) + 1;
    const height = Math.round(Math.min(Math.max(rows * ROW + 2, HEIGHT_MIN), innerHeight * HEIGHT_SHARE_MAX));
    scroll.style.height = `${height}px`;
    this.spacer.style.height = `${Math.max(0, rows * ROW - height)}px`;
    const ratio = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.height = `${height}px`;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!(whole > 0)) return;
    context.font = FONT;
    context.textBaseline = "middle";
    const first = Math.floor(scroll.scrollTop / ROW);
    const last = Math.min(rows - 1, Math.ceil((scroll.scrollTop + height) / ROW));
    for (let row = first; row <= last; row += 1) {
      const y = row * ROW - scroll.scrollTop;
      let behind = -1;
      for (const node of tree.within(row, from, from + whole)) {
        const left = Math.max(0, ((tree.start[node] - from) / whole) * width);
        const right = Math.min(width, ((tree.start[node] + tree.total[node] - from) / whole) * width);
        if (right - left < WIDTH_MIN && right < behind + WIDTH_MIN) continue;
        behind = right;
        this.box(node, left, y, Math.max(right - left, WIDTH_MIN));
      }
    }
  }

  box(node, x, y, width) {
    const { context, tree } = this;
    const isDark = this.dark.matches;
    const label = tree.label(node);
    const isFound = this.found.has(node);
    const isFaded = node < this.zoom || (this.found.size > 0 && !isFound);
    context.globalAlpha = isFaded ? 0.45 : 1;
    context.fillStyle = isFound ? (isDark ? "#c58be8" : "#b05bdc") : colour(node === 0 ? KIND.other : tree.kind[node], label, isDark);
    const gap = width > 3 ? 0.6 : 0;
    context.fillRect(x, y, width - gap, ROW - 1);
    if (tree.kind[node] === KIND.cut && width > 3) this.hatch(x, y, width - gap);
    const isFocus = node === this.focus && document.activeElement === this.canvas;
    if (node === this.hover || isFocus) {
      context.globalAlpha = 1;
      context.strokeStyle = isDark ? "#fff" : "#000";
      context.lineWidth = isFocus ? 2 : 1;
      context.strokeRect(x + 1, y + 1, Math.max(1, width - gap - 2), ROW - 3);
    }
    if (width < TEXT_WIDTH_MIN) return;
    context.fillStyle = isFound && !isDark ? "#fff" : "#16181c";
    context.globalAlpha = isFaded ? 0.7 : 1;
    context.fillText(this.fitted(label, width - 8), x + 4, y + ROW / 2);
    context.globalAlpha = 1;
  }

  hatch(x, y, width) {
    const { context } = this;
    context.save();
    context.beginPath();
    context.rect(x, y, width, ROW - 1);
    context.clip();
    context.strokeStyle = "#0003";
    context.lineWidth = 2;
    context.beginPath();
    for (let at = x - ROW; at < x + width; at += 7) {
      context.moveTo(at, y + ROW);
      context.lineTo(at + ROW, y);
    }
    context.stroke();
    context.restore();
  }

  /** As much of a text as there is room for. */
  fitted(text, width) {
    const { context } = this;
    if (text.length * WIDEST < width || context.measureText(text).width <= width) return text;
    let low = 0;
    let high = Math.min(text.length, Math.ceil(width / 3));
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (context.measureText(`${text.slice(0, middle)}…`).width <= width) low = middle;
      else high = middle - 1;
    }
    return low > 1 ? `${text.slice(0, low)}…` : "";
  }

  nodeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const { from, whole, width } = this.scale();
    const row = Math.floor((event.clientY - box.top + this.scroll.scrollTop) / ROW);
    if (!(whole > 0) || row > this.tree.deepest(this.zoom)) return -1;
    return this.tree.at(row, from + ((event.clientX - box.left) / width) * whole);
  }

  point(event) {
    const node = this.nodeAt(event);
    if (node !== this.hover) {
      this.hover = node;
      this.draw();
    }
    this.told(node, event);
  }

  leave() {
    this.hover = -1;
    this.told(-1);
    this.draw();
  }

  click(event) {
    const node = this.nodeAt(event);
    if (node >= 0) this.zoomTo(node);
  }

  key(event) {
    const { tree, focus } = this;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const siblings = () => tree.children(Math.max(0, tree.parent[focus]));
    const beside = (step) => siblings()[siblings().indexOf(focus) + step] ?? focus;
    const largest = () => tree.children(focus).reduce((best, child) => (best < 0 || tree.total[child] > tree.total[best] ? child : best), -1);
    const moves = {
      ArrowUp: () => Math.max(0, tree.parent[focus]),
      ArrowDown: () => (largest() < 0 ? focus : largest()),
      ArrowLeft: () => (focus === 0 ? 0 : beside(-1)),
      ArrowRight: () => (focus === 0 ? 0 : beside(1)),
      Home: () => 0,
    };
    if (moves[event.key]) {
      this.focus = moves[event.key]();
      // Outside of the zoom there is nothing to see: follow.
      if (this.focus < this.zoom || this.focus >= tree.end[this.zoom]) {
        this.zoom = Math.max(0, tree.parent[this.focus]);
        this.zoomed(this.zoom !== 0);
      }
      const top = tree.depth[this.focus] * ROW;
      if (top < this.scroll.scrollTop || top + ROW > this.scroll.scrollTop + this.scroll.clientHeight) this.scroll.scrollTop = top - ROW * 3;
      this.draw();
    } else if (event.key === "Enter" || event.key === " ") {
      this.zoomTo(focus);
    } else if (event.key === "Escape") {
      this.zoomTo(0);
    } else {
      return;
    }
    event.preventDefault();
    this.told(this.focus);
  }
}
