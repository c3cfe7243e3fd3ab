// The page's own part: cases, layers, classes, windows and keys. Volumes are drawn by NiiVue.
"use strict";
(() => {
  const $ = id => document.getElementById(id);
  const page = JSON.parse($("page").textContent);
  const VIEWS = {
    all: niivue.SLICE_TYPE.MULTIPLANAR, axial: niivue.SLICE_TYPE.AXIAL, coronal: niivue.SLICE_TYPE.CORONAL,
    sagittal: niivue.SLICE_TYPE.SAGITTAL, solid: niivue.SLICE_TYPE.RENDER,
  };
  const WINDOWS = {  // centre and width in HU
    "soft tissue": [40, 400], liver: [80, 160], mediastinum: [50, 350], lung: [-600, 1500],
    bone: [400, 1800], brain: [40, 80],
  };
  const DIFFERENCE = [["missed", "#3d9bff"], ["too much", "#ff8a1f"], ["another class", "#d65bff"]];
  const TYPES = {2: Uint8Array, 4: Int16Array, 512: Uint16Array};
  const HEADER = 352;

  const SLICES = `#version 300 es
precision highp float;
precision highp int;
uniform highp sampler3D volume;
uniform highp sampler3D overlay;
uniform float overlayOutlineWidth;
in vec3 texPos;
out vec4 color;
void main() {
  vec3 right = dFdx(texPos) * overlayOutlineWidth, up = dFdy(texPos) * overlayOutlineWidth;
  vec4 scan = texture(volume, texPos), label = texture(overlay, texPos);
  float shown = label.a;
  if (overlayOutlineWidth > 0.0 && label.a > 0.0) {
    float unlike = max(
      max(distance(texture(overlay, texPos + right), label), distance(texture(overlay, texPos - right), label)),
      max(distance(texture(overlay, texPos + up), label), distance(texture(overlay, texPos - up), label)));
    shown = unlike > 0.01 ? 1.0 : 0.3 * label.a;
  }
  color = vec4(mix(scan.rgb, label.rgb, shown), 1.0);
}`;  // how NiiVue's slices are drawn here: a voxel alone is as bright as one among others, outlines are thin

  const state = {
    number: -1, about: null, scan: null, layers: [], layer: 0, hidden: new Set(), opacity: 0.5,
    outline: false, labels: true, view: "all", busy: 0,
  };
  let nv = null;

  // ---------------------------------------------------------------------------------------------- data

  const waiting = new Map();

  function take(number, parts) {  // called by the files of cases that are not in the page itself
    waiting.get(number)?.(parts);
    waiting.delete(number);
  }

  function partsOf(number) {
    const inside = [...document.querySelectorAll(`script[data-case="${number}"]`)];
    if (inside.length) return Promise.resolve(inside.map(part => part.textContent));
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      waiting.set(number, resolve);
      script.onload = () => script.remove();
      script.onerror = () => reject(new Error(`${page.cases[number].file} is not beside this page`));
      script.src = page.cases[number].file;
      document.head.append(script);
    });
  }

  function bytesOf(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  }

  async function unpack(text) {
    const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  async function volume(header, voxels, options) {
    const file = new Uint8Array(HEADER + voxels.byteLength);
    file.set(bytesOf(header).subarray(0, HEADER));
    file.set(new Uint8Array(voxels), HEADER);
    const view = new DataView(file.buffer);
    view.setFloat32(108, HEADER, true);
    view.setFloat32(112, options.slope ?? 1, true);
    view.setFloat32(116, options.inter ?? 0, true);
    const {name, colormap, low, high} = options;
    const made = await niivue.NVImage.new(
      file.buffer, `${name}.nii`, colormap, 1, null, low, high, true, 0.02, false, false, "", 0);
    return made;
  }

  async function load(number) {
    const about = page.cases[number];
    const [scan, ...layers] = await Promise.all((await partsOf(number)).map(unpack));
    const [low, high] = about.window;
    const kind = TYPES[new DataView(bytesOf(about.labelHeader).buffer).getInt16(70, true)];
    const image = await volume(about.header, scan, {
      name: "scan", colormap: "gray", low, high, slope: about.slope, inter: about.inter,
    });
    const drawn = layers[0] ?? new ArrayBuffer(about.shape.reduce((a, b) => a * b));
    const overlay = await volume(about.labelHeader, drawn, {name: "labels", colormap: "gray", low: 0, high: 1});
    return {about, image, overlay, layers: layers.map(buffer => new kind(buffer))};
  }

  // ------------------------------------------------------------------------------------------- drawing

  function rgb(color) {
    return [1, 3, 5].map(at => parseInt(color.slice(at, at + 2), 16));
  }

  // Scans and labels lie on one grid, along the axes of the textures that NiiVue draws. So their colours are looked
  // up here and handed over; NiiVue's own way, which resamples each volume, takes seconds without a graphics card.

  function colorsOfLabels() {
    const shown = isDifference() ? DIFFERENCE.map(([, color]) => color) : state.about.classes.map(c => c.color);
    const table = new Uint8Array(4 * (shown.length + 1)), alpha = state.labels ? Math.round(255 * state.opacity) : 0;
    shown.forEach((color, i) => {
      const seen = isDifference() || !state.hidden.has(state.about.classes[i].name);
      table.set([...rgb(color), seen ? alpha : 0], 4 * (i + 1));
    });
    return new Uint32Array(table.buffer);
  }

  function colorsOfScan(image) {  // of each stored number, from the least that its type holds
    const {slope, inter} = state.about, {cal_min: low, cal_max: high} = image;
    const signed = image.img instanceof Int16Array, count = signed ? 65536 : 256;
    const table = new Uint8Array(4 * count);
    for (let i = 0; i < count; i++) {
      const stored = signed ? i << 16 >> 16 : i;
      const grey = Math.round(255 * Math.min(1, Math.max(0, (stored * slope + inter - low) / (high - low))));
      table.set([grey, grey, grey, Math.ceil(grey / 2)], 4 * i);  // the darkest is clear in 3-D
    }
    return new Uint32Array(table.buffer);
  }

  function paint(layer) {
    const {gl} = nv, [nx, ny, nz] = state.about.shape;
    const voxels = layer ? labelsShown() : nv.volumes[0].img;
    const colors = layer ? colorsOfLabels() : colorsOfScan(nv.volumes[0]);
    const mask = layer ? -1 : 65535, slices = Math.max(1, Math.floor(2 ** 20 / (nx * ny)));
    const made = new Uint32Array(nx * ny * slices), bytes = new Uint8Array(made.buffer);
    gl.activeTexture(layer ? gl.TEXTURE2 : gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_3D, layer ? nv.overlayTexture : nv.volumeTexture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 4);
    for (let z = 0; z < nz; z += slices) {
      const here = Math.min(slices, nz - z), first = nx * ny * z, end = nx * ny * here;
      for (let i = 0; i < end; i++) made[i] = colors[voxels[first + i] & mask];
      gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, z, nx, ny, here, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    }
    nv.updateInterpolation(layer);
  }

  function ownColors() {
    const refresh = nv.refreshLayers, prepared = new Set();
    nv.refreshLayers = (image, layer) => {
      if (!prepared.has(image)) refresh.call(nv, image, layer);  // which makes the textures
      prepared.add(image);
      if (nv.volumes[layer] === image) paint(layer);
    };
    for (const name of ["orientShaderU", "orientShaderI", "blurShader"]) {  // then next to nothing is drawn in them
      const shader = nv[name];
      nv[name] = Object.assign(Object.create(shader), {
        use(gl) { shader.use(gl); gl.viewport(0, 0, 1, 1); },
      });
    }
    niivue.NVImage.prototype.calMinMax = function () {
      this.cal_min = this.robust_min = this.global_min = this.hdr.cal_min;
      this.cal_max = this.robust_max = this.global_max = this.hdr.cal_max;
      return [this.cal_min, this.cal_max, this.cal_min, this.cal_max];
    };
  }

  const isCompared = () => state.about.compared > 1;
  const isDifference = () => state.layer === state.layers.length && isCompared();

  function differing() {  // of what is not hidden
    const seen = [0, ...state.about.classes.map((c, i) => state.hidden.has(c.name) ? 0 : i + 1)];
    const [a, b] = state.layers, made = new a.constructor(a.length);
    for (let i = 0; i < a.length; i++) {
      if (a[i] === b[i]) continue;
      const wanted = seen[a[i]], found = seen[b[i]];
      made[i] = wanted === found ? 0 : !found ? 1 : !wanted ? 2 : 3;
    }
    return made;
  }

  function labelsShown() {
    const overlay = nv.volumes[1];
    if (isDifference()) overlay.img = differing();
    else if (state.layers.length) overlay.img = state.layers[state.layer];
    return overlay.img;
  }

  function drawLabels() {
    if (!nv || !state.about) return;
    nv.overlayOutlineWidth = state.outline ? 1.5 * devicePixelRatio : 0;
    paint(1);
    nv.drawScene();
  }

  function drawScan() {
    paint(0);
    nv.drawScene();
  }

  const asked = new Map();

  function soon(what) {  // at most once in each frame
    if (asked.has(what)) return;
    asked.set(what, requestAnimationFrame(() => { asked.delete(what); what(); }));
  }

  async function show(number) {
    const turn = ++state.busy, {drawScene} = nv;
    $("stage").classList.add("busy");
    say("");
    try {
      const {about, image, overlay, layers} = await load(number);
      if (turn !== state.busy) return;
      const most = nv.gl.getParameter(nv.gl.MAX_3D_TEXTURE_SIZE);
      if (Math.max(...about.shape) > most) {
        throw new Error(`this browser draws ${most} voxels a side; make the page again with less --max-size`);
      }
      nv.drawScene = () => {};  // once is enough
      const known = state.about ? state.layer : Math.max(0, about.compared - 1);
      Object.assign(state, {number, about, layers, layer: Math.min(known, Math.max(0, layers.length - 1))});
      nv.volumes = [image, overlay];
      nv.back = image;
      nv.overlays = [overlay];
      nv.updateGLVolume();
      const first = about.classes.find(c => c.at && !state.hidden.has(c.name));
      nv.scene.crosshairPos = nv.vox2frac(first ? largest(about).at : about.shape.map(n => n >> 1));
      nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
      look(number === 0 || about.view !== "all" ? about.view : state.view);
      fill();
      nv.createOnLocationChange();
      nv.drawScene = drawScene;
      drawSolid();
    } catch (error) {
      say(`This case cannot be shown: ${error.message}`);
    } finally {
      nv.drawScene = drawScene;
      if (turn === state.busy) $("stage").classList.remove("busy");
    }
  }

  function largest(about) {
    return about.classes.filter(c => c.at).reduce((a, b) => Math.max(...b.ml) > Math.max(...a.ml) ? b : a);
  }

  function drawSolid() {  // whether the scan is seen around the labels in 3-D
    const {gl, renderShader} = nv;
    renderShader.use(gl);
    gl.uniform1f(renderShader.uniforms.backOpacity, $("body").checked ? 1 : 0);
    nv.drawScene();
  }

  function look(view) {
    state.view = view;
    nv.opts.crosshairWidth = (innerWidth < 800 ? 2 : 1) * (view === "all" ? 0.3 : 0.12);
    nv.setSliceType(VIEWS[view]);
    for (const button of $("views").children) button.setAttribute("aria-pressed", button.value === view);
  }

  function choose(layer) {
    state.layer = layer;
    for (const button of $("layers").children) button.setAttribute("aria-pressed", +button.value === layer);
    $("differences").hidden = !isDifference();
    drawLabels();
    nv.createOnLocationChange();
  }

  function frame(low, high) {
    if (!(high > low)) return;
    const known = nv.volumes[0].cal_min === low && nv.volumes[0].cal_max === high;
    [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = [low, high];
    $("low").value = +low.toPrecision(5);
    $("high").value = +high.toPrecision(5);
    for (const button of $("windows").children) {
      const [l, h] = button.value.split(" ").map(Number);
      button.setAttribute("aria-pressed", l === low && h === high);
    }
    if (!known) soon(drawScan);
  }

  // --------------------------------------------------------------------------------------------- panel

  function element(tag, text = "", attributes = {}) {
    const made = document.createElement(tag);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function buttons(holder, values, act) {
    holder.replaceChildren(...values.map(([value, text, pressed]) => {
      const button = element("button", text, {type: "button", value, "aria-pressed": !!pressed});
      button.onclick = () => act(button.value);
      return button;
    }));
  }

  function ml(volumes) {
    const text = v => v >= 100 ? v.toFixed(0) : v >= 1 ? v.toFixed(1) : v > 0 ? v.toPrecision(2) : "0";
    return volumes.map(text).join(" | ");
  }

  function fill() {
    const {about, layers} = state;
    document.title = page.cases.length > 1 ? `${about.name} · ${page.title}` : page.title;
    $("cases").value = state.number;
    if (page.cases.length > 1) history.replaceState(null, "", `#${encodeURIComponent(about.name)}`);
    const names = isCompared() ? [...about.layers, "difference"] : about.layers;
    buttons($("layers"), names.map((name, i) => [i, name, i === state.layer]), value => choose(+value));
    $("layers").hidden = about.layers.length < 2;
    $("labels").hidden = !layers.length;
    $("differences").hidden = !isDifference();
    const presets = about.ct
      ? Object.entries(WINDOWS).map(([name, [centre, width]]) => [`${centre - width / 2} ${centre + width / 2}`, name])
      : [[about.window.join(" "), "auto"]];
    buttons($("windows"), presets, value => frame(...value.split(" ").map(Number)));
    frame(...about.window);
    $("notes").replaceChildren(...about.notes.map(note => element("li", note)));
    $("notes").hidden = !about.notes.length;
    $("score").textContent = about.meanDice ? `Dice ${about.meanDice}` : "";
    const heads = about.layers.slice(0, about.compared).join(" | ");
    $("heads").textContent = isCompared() ? `ml: ${heads}` : about.layers.length ? "ml" : "";
    list();
  }

  function list() {
    const wanted = $("find").value.trim().toLowerCase();
    const found = state.about.classes.filter(c => c.name.toLowerCase().includes(wanted));
    $("find").hidden = state.about.classes.length < 10;
    $("classes").replaceChildren(...found.map(c => {
      const row = element("li"), label = element("label"), box = element("input", "", {type: "checkbox"});
      const swatch = element("span", "", {class: "swatch"});
      swatch.style.background = c.color;
      box.checked = !state.hidden.has(c.name);
      box.onchange = () => hide(c.name, !box.checked);
      box.setAttribute("aria-label", `show ${c.name}`);
      label.append(box, swatch);
      const go = element("button", c.name, {type: "button", class: "go", title: "go there; double click: this one alone"});
      go.onclick = () => { if (c.at) visit(c.at); };
      go.ondblclick = () => alone(c.name);
      const score = c.name in state.about.dice ? element("span", state.about.dice[c.name].toFixed(3), {class: "dice", title: "Dice"}) : "";
      row.append(label, go, score, element("span", ml(c.ml), {class: "ml"}));
      return row;
    }));
  }

  function hide(name, hidden) {
    hidden ? state.hidden.add(name) : state.hidden.delete(name);
    soon(drawLabels);
  }

  function alone(name) {
    const others = state.about.classes.map(c => c.name).filter(other => other !== name);
    const already = others.every(other => state.hidden.has(other)) && others.length;
    state.hidden = new Set(already ? [] : others);
    list();
    soon(drawLabels);
  }

  function every(shown) {
    state.hidden = new Set(shown ? [] : state.about.classes.map(c => c.name));
    list();
    soon(drawLabels);
  }

  function visit(voxel) {
    nv.scene.crosshairPos = nv.vox2frac(voxel);
    nv.drawScene();
    nv.createOnLocationChange();
  }

  // ---------------------------------------------------------------------------------- where one points

  function index([x, y, z]) {
    const [nx, ny] = state.about.shape;
    return x + nx * (y + ny * z);
  }

  function at(voxel) {  // what the page knows of a voxel (x, y, z)
    const {about, layers} = state, place = index(voxel), m = about.affine;
    const name = i => i ? about.classes[i - 1].name : "";
    return {
      mm: m.map(row => row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3]),
      value: nv.volumes[0].img[place] * about.slope + about.inter,
      labels: layers.map(layer => name(layer[place])),
    };
  }

  function located(message) {
    if (!state.about) return;
    const voxel = [...message.vox].map((v, i) => Math.min(Math.max(Math.round(v), 0), state.about.shape[i] - 1));
    const {mm, value, labels} = at(voxel);
    const sides = ["LR", "PA", "IS"].map((pair, i) => `${pair[+(mm[i] >= 0)]} ${Math.abs(mm[i]).toFixed(1)}`);
    const unit = state.about.ct ? " HU" : "";
    const named = labels.map((name, i) => labels.length > 1 ? `${state.about.layers[i]}: ${name || "–"}` : name || "–");
    $("where").textContent = [`${sides.join("  ")} mm`, `${+value.toPrecision(5)}${unit}`, ...named].join("   ·   ");
  }

  function say(text) {
    $("error").textContent = text;
    $("error").hidden = !text;
  }

  // ---------------------------------------------------------------------------------------------- keys

  const KEYS = {
    x: () => state.layers.length > 1 && choose(state.layer === 0 ? 1 : 0),
    d: () => isCompared() && choose(isDifference() ? 0 : state.layers.length),
    h: () => { state.labels = !state.labels; drawLabels(); },
    o: () => { $("outline").click(); },
    s: () => { $("body").click(); },
    "[": () => fade(-0.1), "]": () => fade(0.1),
    n: () => step(1), p: () => step(-1),
    a: () => every(state.hidden.size > 0),
    r: () => { nv.scene.pan2Dxyzmm = [0, 0, 0, 1]; frame(...state.about.window); },
    1: () => look("all"), 2: () => look("axial"), 3: () => look("coronal"), 4: () => look("sagittal"), 5: () => look("solid"),
    ArrowLeft: () => nv.moveCrosshairInVox(-1, 0, 0), ArrowRight: () => nv.moveCrosshairInVox(1, 0, 0),
    ArrowUp: () => nv.moveCrosshairInVox(0, 1, 0), ArrowDown: () => nv.moveCrosshairInVox(0, -1, 0),
    PageUp: () => nv.moveCrosshairInVox(0, 0, 1), PageDown: () => nv.moveCrosshairInVox(0, 0, -1),
  };

  function fade(by) {
    state.opacity = Math.min(1, Math.max(0, Math.round(10 * (state.opacity + by)) / 10));
    $("opacity").value = state.opacity;
    soon(drawLabels);
  }

  function step(by) {
    const next = state.number + by;
    if (next >= 0 && next < page.cases.length) show(next);
  }

  function pressed(event) {
    const typing = event.target.matches?.("input[type=search], input[type=number], select");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !nv || !state.about) return;
    const sliding = event.target.matches?.("input[type=range]") && event.key.startsWith("Arrow");
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || sliding) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  // --------------------------------------------------------------------------------------------- start

  async function start() {
    if (!document.createElement("canvas").getContext("webgl2")) {
      say("This browser draws no volumes: it has no WebGL 2. Open the page in another one, or allow graphics.");
      return;
    }
    if (typeof DecompressionStream === "undefined") {
      say("This browser is too old for this page: it cannot decompress. Open it in a newer one.");
      return;
    }
    nv = new niivue.Niivue({
      logLevel: "error", dragAndDropEnabled: false, isRadiologicalConvention: true, sagittalNoseLeft: true,
      show3Dcrosshair: true, crosshairColor: [1, 1, 1, 0.8], crosshairWidth: 0.3,
      crosshairWidthUnit: "percent", crosshairGap: 12,
      fontColor: [0.85, 0.85, 0.85, 1], fontSizeScaling: 0.3, fontMinPx: 12, clipPlaneHotKey: "", viewModeHotKey: "", cycleClipPlaneHotKey: "",
      multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS, multiplanarLayout: niivue.MULTIPLANAR_TYPE.AUTO,
      multiplanarPadPixels: 4, tileMargin: 4, isOrientCube: false, dragMode: niivue.DRAG_MODE.contrast, loadingText: "",
    });
    const smooth = nv.updateInterpolation;
    nv.updateInterpolation = (layer, forced) => {  // scans are smoothed, labels have edges
      nv.opts.isNearestInterpolation = layer > 0;
      smooth.call(nv, layer, forced);
      nv.opts.isNearestInterpolation = false;
    };
    nv.onLocationChange = located;
    nv.onIntensityChange = image => {
      $("low").value = +image.cal_min.toPrecision(5);
      $("high").value = +image.cal_max.toPrecision(5);
    };
    await nv.attachToCanvas($("canvas"));
    nv.setCustomSliceShader(SLICES);
    ownColors();
    buttons($("views"), [["all", "planes and 3-D"], ["axial", "axial"], ["coronal", "coronal"],
      ["sagittal", "sagittal"], ["solid", "3-D"]], look);
    $("cases").replaceChildren(...page.cases.map((about, number) =>
      element("option", about.meanDice ? `${about.name}  (Dice ${about.meanDice})` : about.name, {value: number})));
    $("choice").hidden = page.cases.length < 2;
    $("single").hidden = page.cases.length > 1;
    $("cases").onchange = () => show(+$("cases").value);
    $("before").onclick = () => step(-1);
    $("after").onclick = () => step(1);
    $("opacity").oninput = () => { state.opacity = +$("opacity").value; soon(drawLabels); };
    $("outline").onchange = () => { state.outline = $("outline").checked; soon(drawLabels); };
    $("body").onchange = drawSolid;
    $("low").onchange = $("high").onchange = () => frame(+$("low").value, +$("high").value);
    $("find").oninput = list;
    $("everything").onclick = () => every(true);
    $("nothing").onclick = () => every(false);
    addEventListener("keydown", pressed, true);
    addEventListener("hashchange", () => { if (wanted() !== state.number) show(wanted()); });
    await show(wanted());
  }

  function wanted() {
    let name = "";
    try { name = decodeURIComponent(location.hash.slice(1)); } catch { /* a hash that is no name */ }
    return Math.max(0, page.cases.findIndex(about => about.name === name));
  }

  window.medfuse = {take, show, at, state, choose, hide, look, ready: null, get nv() { return nv; }};
  window.medfuse.ready = start().catch(error => say(`This page cannot be shown: ${error.message}`));
})();
