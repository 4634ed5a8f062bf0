"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data) return; // nothing was analysed, or there are no pictures to show

  const byId = (id) => document.getElementById(id);
  const marker = byId("marker");
  const chart = byId("chart");
  const slices = data.slices;
  const best = slices.reduce((top, slice, i) => (slice.probability > slices[top].probability ? i : top), 0);
  const stack = data.stack;
  let at = best;

  const moveMarker = () => {
    const x = data.chart.left + ((at + 0.5) / slices.length) * data.chart.width;
    marker.setAttribute("transform", `translate(${x.toFixed(1)} 0)`);
    marker.setAttribute("visibility", "visible");
  };

  const canvas = byId("canvas");
  const context = canvas.getContext("2d");
  const slider = byId("slider");
  const colours = { 1: [230, 159, 0], 2: [86, 180, 233], 3: [227, 143, 192] }; // Okabe and Ito, safe for colour blindness
  const letters = { 1: "R", 2: "L", 3: "?" };
  const [shownRows, shownColumns] = stack.shown;
  const aspect = (shownColumns * stack.spacing[1]) / (shownRows * stack.spacing[0]);
  const loaded = new Map();
  let outlined = true;
  let windowAt = 0;

  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const plane = new Uint8Array(await new Response(stream).arrayBuffer());
    for (let i = stack.columns; i < plane.length; i++) plane[i] += plane[i - stack.columns];
    return plane;
  };

  const load = (i) => {
    if (!loaded.has(i)) {
      const mask = stack.masks[i];
      loaded.set(i, Promise.all([unpack(stack.pictures[i]), mask ? unpack(mask) : null]));
    }
    return loaded.get(i);
  };

  const layer = (paint) => {
    const sheet = document.createElement("canvas");
    sheet.width = stack.columns;
    sheet.height = stack.rows;
    const pixels = new ImageData(stack.columns, stack.rows);
    paint(new Uint32Array(pixels.data.buffer));
    sheet.getContext("2d").putImageData(pixels, 0, 0);
    return sheet;
  };

  const rgba = ([r, g, b], alpha) => ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;

  const greys = () => {
    const { center, width } = stack.windows[windowAt];
    return Uint32Array.from(stack.hu, (hu) => {
      const grey = Math.round(255 * Math.min(1, Math.max(0, (hu - center) / width + 0.5)));
      return rgba([grey, grey, grey], 255);
    });
  };

  const place = (sheet, smooth) => {
    context.imageSmoothingEnabled = smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(sheet, 0, 0, shownColumns, shownRows, 0, 0, canvas.width, canvas.height);
  };

  // The border of a label runs along pixel edges, so its line shows exactly which pixels were outlined.
  const outline = (mask, label, scaleX, scaleY) => {
    const { columns, rows } = stack;
    const path = new Path2D();
    let top = null;
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const i = y * columns + x;
        if (mask[i] !== label) continue;
        if (!top) top = [x, y];
        const [x0, x1, y0, y1] = [x * scaleX, (x + 1) * scaleX, y * scaleY, (y + 1) * scaleY];
        if (x === 0 || mask[i - 1] !== label) { path.moveTo(x0, y0); path.lineTo(x0, y1); }
        if (x === columns - 1 || mask[i + 1] !== label) { path.moveTo(x1, y0); path.lineTo(x1, y1); }
        if (y === 0 || mask[i - columns] !== label) { path.moveTo(x0, y0); path.lineTo(x1, y0); }
        if (y === rows - 1 || mask[i + columns] !== label) { path.moveTo(x0, y1); path.lineTo(x1, y1); }
      }
    }
    if (!top) return;
    const unit = canvas.width / canvas.clientWidth || 1;
    context.strokeStyle = `rgb(${colours[label]})`;
    context.lineWidth = 2 * unit;
    context.lineCap = "square";
    context.stroke(path);
    context.font = `600 ${18 * unit}px system-ui, sans-serif`;
    context.lineWidth = 4 * unit;
    context.strokeStyle = "#000";
    context.fillStyle = `rgb(${colours[label]})`;
    const [x, y] = [top[0] * scaleX, Math.max(top[1] * scaleY - 6 * unit, 18 * unit)];
    context.strokeText(letters[label], x, y);
    context.fillText(letters[label], x, y);
  };

  const drawScale = () => {
    const unit = canvas.width / canvas.clientWidth || 1;
    const length = (50 / (shownColumns * stack.spacing[1])) * canvas.width;
    const [x, y] = [14 * unit, canvas.height - 14 * unit];
    context.font = `${18 * unit}px system-ui, sans-serif`;
    context.lineWidth = 3 * unit;
    context.strokeStyle = context.fillStyle = "#fff";
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x + length, y);
    context.stroke();
    context.fillText("5 cm", x, y - 8 * unit);
  };

  const draw = async () => {
    const wanted = at;
    const [picture, mask] = await load(wanted);
    if (wanted !== at) return; // the reader has moved on
    const grey = greys();
    place(layer((out) => picture.forEach((code, i) => { out[i] = grey[code]; })), true);
    if (outlined && mask) {
      const fills = [0, 1, 2, 3].map((label) => (label ? rgba(colours[label], 64) : 0));
      place(layer((out) => mask.forEach((label, i) => { out[i] = fills[label]; })), false);
      for (const label of [1, 2, 3]) outline(mask, label, canvas.width / shownColumns, canvas.height / shownRows);
    }
    drawScale();
    canvas.dataset.shown = String(wanted + 1);
  };

  const tell = () => {
    const slice = slices[at];
    slider.value = String(at + 1);
    slider.setAttribute("aria-valuetext", `Slice ${at + 1} of ${slices.length}, ${slice.said}`);
    byId("now-slice").textContent = `Slice ${at + 1} of ${slices.length}`;
    byId("now-position").textContent = slice.place;
    byId("now-probability").textContent = slice.said;
    byId("now-outlined").textContent = slice.outlined;
    moveMarker();
  };

  const go = (to) => {
    const next = Math.min(slices.length - 1, Math.max(0, to));
    if (next === at) return;
    at = next;
    tell();
    draw();
  };

  const positives = slices.flatMap((slice, i) => (slice.positive ? [i] : []));
  const goNextPositive = () => {
    if (positives.length) go(positives.find((i) => i > at) ?? positives[0]);
  };
  const nextButton = byId("next");
  if (!positives.length) {
    nextButton.disabled = true;
    nextButton.textContent = "No positive slice";
  }

  const overlayButton = byId("overlay");
  const hasMask = stack.masks.some(Boolean);
  overlayButton.disabled = !hasMask;
  const setOverlay = (on) => {
    outlined = on;
    overlayButton.setAttribute("aria-pressed", String(on));
    overlayButton.firstChild.data = hasMask ? `Outline: ${on ? "shown" : "hidden"} ` : "Nothing outlined ";
    draw();
  };
  const windowButton = byId("window");
  const setWindow = (to) => {
    windowAt = to % stack.windows.length;
    windowButton.firstChild.data = `Window: ${stack.windows[windowAt].name} `;
    draw();
  };

  const keys = {
    ArrowLeft: () => go(at - 1),
    ArrowRight: () => go(at + 1),
    ArrowDown: () => go(at + 1),
    ArrowUp: () => go(at - 1),
    Home: () => go(0),
    End: () => go(slices.length - 1),
    n: goNextPositive,
    m: () => go(best),
    o: () => hasMask && setOverlay(!outlined),
    w: () => setWindow(windowAt + 1),
  };
  const viewer = byId("viewer");
  document.addEventListener("keydown", (event) => {
    const free = document.activeElement === document.body;
    const scrolls = ["ArrowUp", "ArrowDown", "Home", "End"].includes(event.key);
    if (event.ctrlKey || event.altKey || event.metaKey || !(viewer.contains(event.target) || (free && !scrolls))) return;
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  let turned = 0;
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey) return; // pinch zoom belongs to the browser
    event.preventDefault();
    turned += event.deltaMode === 0 ? event.deltaY : 40 * event.deltaY;
    const steps = Math.trunc(turned / 40); // a mouse notch is 100 px or 3 lines, a trackpad sends small pieces
    if (!steps) return;
    turned = 0;
    go(at + Math.sign(steps));
  }, { passive: false });

  slider.addEventListener("input", () => go(Number(slider.value) - 1));
  nextButton.addEventListener("click", goNextPositive);
  byId("best").addEventListener("click", keys.m);
  overlayButton.addEventListener("click", () => setOverlay(!outlined));
  windowButton.addEventListener("click", keys.w);
  chart.addEventListener("click", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    go(Math.floor(((x - data.chart.left) / data.chart.width) * slices.length));
  });

  const fit = () => {
    const room = canvas.parentElement.clientWidth;
    const width = Math.min(room, 0.7 * window.innerHeight * aspect);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${width / aspect}px`;
    canvas.width = Math.round(width * window.devicePixelRatio);
    canvas.height = Math.round((width / aspect) * window.devicePixelRatio);
    draw();
  };

  setOverlay(true);
  setWindow(0);
  tell();
  fit();
  window.addEventListener("resize", fit);
})();
