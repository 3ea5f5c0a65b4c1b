// Player of recorded episodes: unpacks the page's content, then runs a loop of time, camera and WebGL.

const $ = (id) => document.getElementById(id);

// ---------------------------------------------------------------- content

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);

async function unpack() {
  const packed = new Blob([bytes($("content").textContent)]);
  const stream = packed.stream().pipeThrough(new DecompressionStream("gzip"));
  $("content").remove();
  return new Response(stream).json();
}

// An episode: the poses at every `every`-th step, and the reward of each step.
class Episode {
  constructor(stored) {
    Object.assign(this, { before: stored.before, every: stored.every, dt: stored.dt });
    this.still = floats(stored.still);
    this.moving = stored.moving;
    this.rewards = [...floats(stored.reward)];
    this.successes = [...bytes(stored.success)];
    const all = floats(stored.poses), size = 7 * this.moving.length;
    const count = size ? all.length / size : Math.floor(this.rewards.length / this.every) + 1;
    this.frames = Array.from({ length: count }, (_, k) => all.subarray(k * size, (k + 1) * size));
  }
  get steps() { return this.rewards.length; }
  // Positions and quaternions of all bodies, then of all cameras, interpolated between recorded steps.
  at(step) {
    const place = Math.min(step / this.every, this.frames.length - 1);
    const first = this.frames[Math.floor(place)];
    const second = this.frames[Math.min(Math.floor(place) + 1, this.frames.length - 1)];
    const part = place - Math.floor(place), poses = this.still.slice();
    this.moving.forEach((thing, k) => {
      let turned = 0;
      for (let i = 3; i < 7; i++) turned += first[7 * k + i] * second[7 * k + i];
      const sign = turned < 0 ? -1 : 1;
      let norm = 0;
      for (let i = 0; i < 7; i++) {
        const end = second[7 * k + i] * (i < 3 ? 1 : sign);
        const value = first[7 * k + i] * (1 - part) + end * part;
        poses[7 * thing + i] = value;
        if (i > 2) norm += value * value;
      }
      for (let i = 3; i < 7; i++) poses[7 * thing + i] /= Math.sqrt(norm);
    });
    return poses;
  }
  returnAt(step) {
    return this.rewards.slice(0, Math.round(step)).reduce((sum, reward) => sum + reward, 0);
  }
  succeededBy(step) { return this.successes.slice(0, Math.round(step)).some(Boolean); }
}

const experience = ({ before }) =>
  `after ${before} episode${before === 1 ? "" : "s"} of experience`;

// ---------------------------------------------------------------- vectors and matrices

const add = (a, b, scale = 1) => a.map((x, i) => x + scale * b[i]);
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const cross = (a, b) =>
  [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => a.map((x) => x / Math.hypot(...a));

// Columns of the rotation matrix of a quaternion (w, x, y, z).
function axes([w, x, y, z]) {
  return [
    [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
    [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
    [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
  ];
}
const pose = (poses, k) => [[...poses.slice(7 * k, 7 * k + 3)], [...poses.slice(7 * k + 3, 7 * k + 7)]];
const frame = (position, [right, up, back]) =>
  new Float32Array([...right, 0, ...up, 0, ...back, 0, ...position, 1]);

function product(a, b) {
  const c = new Float32Array(16);
  for (let i = 0; i < 4; i++)
    for (let j = 0; j < 4; j++)
      for (let k = 0; k < 4; k++) c[4 * j + i] += a[4 * k + i] * b[4 * j + k];
  return c;
}

// Matrix from world to clip space for an eye with axes right, up and back.
function lens({ eye, right, up, back, fovy }, aspect, extent) {
  const view = new Float32Array([
    right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0,
    -dot(right, eye), -dot(up, eye), -dot(back, eye), 1,
  ]);
  const near = 0.01 * extent, far = 50 * extent, f = 1 / Math.tan((fovy * Math.PI) / 360);
  const projection = new Float32Array([
    f / aspect, 0, 0, 0, 0, f, 0, 0,
    0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0,
  ]);
  return product(projection, view);
}

// ---------------------------------------------------------------- WebGL

const VERTEX = `#version 300 es
in vec3 position; in vec3 normal;
uniform mat4 lens, placed; uniform vec3 low, span;
out vec3 facing, world;
void main() {
  vec4 here = placed * vec4(low + position * span, 1.0);
  world = here.xyz;
  facing = mat3(placed) * normal;
  gl_Position = lens * here;
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 facing, world;
uniform vec4 rgba; uniform bool checkered; uniform vec3 eye, paper; uniform float extent;
out vec4 color;
void main() {
  vec3 n = normalize(facing), toEye = normalize(eye - world);
  if (dot(n, toEye) < 0.0) n = -n;
  float key = max(dot(n, normalize(vec3(0.3, -0.45, 0.85))), 0.0);
  float head = max(dot(n, toEye), 0.0);
  vec3 base = rgba.rgb;
  if (checkered) {
    vec2 tile = floor(world.xy / (0.5 * max(1.0, floor(extent / 3.0))));
    base *= mod(tile.x + tile.y, 2.0) < 0.5 ? 1.0 : 0.82;
  }
  vec3 lit = base * (0.38 + 0.16 * n.z + 0.42 * key + 0.22 * head)
    + 0.10 * pow(max(dot(reflect(-toEye, n), normalize(vec3(0.3, -0.45, 0.85))), 0.0), 24.0);
  float away = checkered ? smoothstep(4.0, 12.0, length(eye - world) / extent) : 0.0;
  color = vec4(mix(lit, paper, away), rgba.a);
}`;

class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    const gl = (this.gl = canvas.getContext("webgl2", { antialias: true }));
    if (!gl) throw new Error("This browser shows no 3-D graphics: WebGL 2 is missing or turned off.");
    this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(this.program, shader);
    }
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS))
      throw new Error("The browser cannot compile the shaders: " + gl.getProgramInfoLog(this.program));
    const names = ["lens", "placed", "low", "span", "rgba", "checkered", "eye", "paper", "extent"];
    this.uniform = Object.fromEntries(names.map((n) => [n, gl.getUniformLocation(this.program, n)]));
    this.loaded = new Map();
    this.meshes = new Map();
  }

  // Loads the meshes of a scene into graphics memory, once.
  load(scene) {
    if (this.loaded.has(scene)) return this.loaded.get(scene);
    const gl = this.gl;
    const fill = (name, data, type, stride) => {
      const place = gl.getAttribLocation(this.program, name), buffer = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 3, type, true, stride, 0);
      return buffer;
    };
    const load = (mesh) => {
      if (this.meshes.has(mesh)) return this.meshes.get(mesh);
      const array = gl.createVertexArray(), indices = bytes(mesh.triangles);
      gl.bindVertexArray(array);
      const buffers = [
        fill("position", bytes(mesh.positions), gl.UNSIGNED_SHORT, 6),
        fill("normal", bytes(mesh.normals), gl.BYTE, 3), gl.createBuffer(),
      ];
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffers[2]);
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
      const loaded = {
        array, buffers, low: mesh.low, span: mesh.span,
        count: indices.length / (mesh.wide ? 4 : 2),
        type: mesh.wide ? gl.UNSIGNED_INT : gl.UNSIGNED_SHORT,
      };
      this.meshes.set(mesh, loaded);
      return loaded;
    };
    const drawn = scene.drawn
      .map((part) => ({
        ...part, mesh: load(part.mesh), local: frame(part.position, axes(part.quaternion)),
      }))
      .sort((a, b) => b.rgba[3] - a.rgba[3]); // transparent parts come last
    this.loaded.set(scene, drawn);
    return drawn;
  }

  // Frees graphics memory that only this scene uses.
  forget(scene) {
    this.loaded.delete(scene);
    const used = new Set([...this.loaded.keys()].flatMap((s) => s.drawn.map((part) => part.mesh)));
    for (const { mesh } of scene.drawn) {
      const loaded = this.meshes.get(mesh);
      if (!loaded || used.has(mesh)) continue;
      this.gl.deleteVertexArray(loaded.array);
      loaded.buffers.forEach((buffer) => this.gl.deleteBuffer(buffer));
      this.meshes.delete(mesh);
    }
  }

  begin() {
    const { gl, canvas } = this, scale = Math.min(devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * scale);
    const height = Math.round(canvas.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    this.paper = getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g)
      .slice(0, 3).map((x) => x / 255);
    gl.disable(gl.SCISSOR_TEST);
    gl.clearColor(...this.paper, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    gl.useProgram(this.program);
  }

  // Draws a scene into one of `parts` equal columns of the canvas.
  draw(scene, poses, camera, part, parts) {
    const { gl, canvas, uniform } = this, width = canvas.width / parts;
    gl.viewport(part * width, 0, width, canvas.height);
    gl.uniformMatrix4fv(uniform.lens, false, lens(camera, width / canvas.height, scene.extent));
    gl.uniform3fv(uniform.eye, camera.eye);
    gl.uniform3fv(uniform.paper, this.paper);
    gl.uniform1f(uniform.extent, scene.extent);
    for (const { mesh, body, local, rgba, checkered } of this.load(scene)) {
      const [position, quaternion] = pose(poses, body);
      gl.uniformMatrix4fv(uniform.placed, false, product(frame(position, axes(quaternion)), local));
      gl.uniform3fv(uniform.low, mesh.low);
      gl.uniform3fv(uniform.span, mesh.span);
      gl.uniform4fv(uniform.rgba, rgba);
      gl.uniform1i(uniform.checkered, checkered);
      gl.depthMask(rgba[3] === 1);
      gl.bindVertexArray(mesh.array);
      gl.drawElements(gl.TRIANGLES, mesh.count, mesh.type, 0);
    }
    gl.depthMask(true);
  }
}

// ---------------------------------------------------------------- cameras

const FREE = "free";
const KEPT_TRIALS = 8; // most trials kept of a live agent

// A camera of the scene, turned upright if it is defined upside down.
function named(scene, poses, index) {
  const [eye, quaternion] = pose(poses, scene.num_bodies + index);
  let [right, up, back] = axes(quaternion);
  if (up[2] < -0.1) [right, up] = [right.map((x) => -x), up.map((x) => -x)];
  return { eye, right, up, back, fovy: scene.cameras[index].fovy };
}

// A camera that the mouse turns around a point; it follows the motion of the scene's own camera.
class Orbit {
  constructor(scene, camera) {
    this.target = [...scene.center];
    this.yaw = -Math.PI / 3;
    this.pitch = 0.45;
    this.distance = 1.6 * scene.extent;
    if (camera) this.from(camera);
  }
  from({ eye, back }) {
    this.distance = Math.max(0.1, dot(add(eye, this.target, -1), back));
    this.target = add(eye, back, -this.distance);
    this.yaw = Math.atan2(back[1], back[0]);
    this.pitch = Math.asin(Math.max(-1, Math.min(1, back[2])));
  }
  turn(dx, dy) {
    this.yaw -= 0.008 * dx;
    this.pitch = Math.max(-1.55, Math.min(1.55, this.pitch + 0.008 * dy));
  }
  move(dx, dy) {
    const { right, up } = this.seen([0, 0, 0]), scale = 0.0016 * this.distance;
    this.target = add(add(this.target, right, -dx * scale), up, dy * scale);
  }
  zoom(factor) { this.distance *= factor; }
  seen(along) {
    const flat = Math.cos(this.pitch);
    const back = [flat * Math.cos(this.yaw), flat * Math.sin(this.yaw), Math.sin(this.pitch)];
    const right = unit([-Math.sin(this.yaw), Math.cos(this.yaw), 0]);
    const target = add(this.target, along);
    return { eye: add(target, back, this.distance), right, up: cross(back, right), back, fovy: 45 };
  }
}

// ---------------------------------------------------------------- the page

class Replay {
  constructor(content) {
    this.painter = new Painter($("view"));
    this.live = content.live;
    this.tasks = this.prepare(content);
    this.step = 0;
    this.playing = true;
    this.rest = 0;
    this.listen();
    this.listTasks();
    const several = new Set(this.tasks.map((task) => task.agent)).size > 1;
    $("agents-label").hidden = !several;
    $("agents").checked = several;
    this.say("");
    if (this.tasks.length) this.chooseTask(0);
    else this.more().catch(() => this.say("The server is gone."));
    let last = performance.now();
    const tick = (now) => {
      this.advance((now - last) / 1000);
      last = now;
      this.paint();
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  prepare({ tasks, meshes }) {
    for (const task of tasks) {
      for (const part of task.scene.drawn) part.mesh = meshes[part.mesh];
      task.episodes = task.episodes.map((stored) => new Episode(stored));
    }
    return tasks;
  }

  listTasks() {
    $("task").replaceChildren(...this.tasks.map((task, k) => {
      const outcome = task.succeeded ? "succeeds" : "fails", who = task.agent && ` (${task.agent})`;
      return new Option(`${task.name}, task ${task.task}: ${outcome}${who}`, k);
    }));
  }

  // The recordings of the chosen task by all agents, or only the chosen one.
  get peers() {
    if (!$("agents").checked) return [this.task];
    return this.tasks.filter((t) => t.name === this.task.name && t.task === this.task.task);
  }

  listEpisodes() {
    $("episode").replaceChildren(...this.task.episodes.map((episode, k) =>
      new Option(experience(episode), k)));
    $("episode").value = this.task.episodes.indexOf(this.episode);
  }

  chooseTask(k) {
    this.task = this.tasks[k];
    $("task").value = k;
    const { scene, camera } = this.task, index = scene.cameras.findIndex((c) => c.name === camera);
    $("camera").replaceChildren(
      ...scene.cameras.map((c, i) => new Option(c.name || `camera ${i}`, i)), new Option(FREE, FREE));
    this.camera = index < 0 ? FREE : index;
    $("camera").value = this.camera;
    this.own = index;
    this.chooseEpisode(this.live ? 0 : this.task.episodes.length - 1);
    if (this.live && k === this.tasks.length - 1) this.more().catch(() => this.say("The server is gone."));
    const start = this.episode && this.camera !== FREE && named(scene, this.episode.at(0), index);
    this.orbit = new Orbit(scene, start);
  }

  chooseEpisode(k) {
    this.episode = this.task.episodes[k];
    this.step = 0;
    this.listEpisodes();
  }

  listen() {
    $("beside").onchange = () => { if ($("beside").checked) $("agents").checked = false; };
    $("agents").onchange = () => { if ($("agents").checked) $("beside").checked = false; };
    $("play").onclick = () => { this.playing = !this.playing; };
    $("task").onchange = () => this.chooseTask(Number($("task").value));
    $("episode").onchange = () => this.chooseEpisode(Number($("episode").value));
    $("camera").onchange = () => {
      const chosen = $("camera").value;
      if (chosen === FREE) this.setFree();
      else this.camera = Number(chosen);
    };
    $("step").oninput = () => { this.step = Number($("step").value); this.playing = false; };
    document.addEventListener("keydown", (event) => {
      if (["SELECT", "BUTTON", "INPUT"].includes(event.target.tagName) && event.target.id !== "step") return;
      const jump = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === " ") this.playing = !this.playing;
      else if (jump) { this.playing = false; this.go(Math.round(this.step) + jump); }
      else return;
      event.preventDefault();
    });
    this.listenToPointers($("view"));
  }

  listenToPointers(canvas) {
    const held = new Map();
    const spread = () => {
      const [a, b] = [...held.values()];
      return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, size: Math.hypot(a.x - b.x, a.y - b.y) };
    };
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    };
    canvas.onpointerup = canvas.onpointercancel = (event) => held.delete(event.pointerId);
    canvas.onpointermove = (event) => {
      const old = held.get(event.pointerId);
      if (!old) return;
      this.setFree();
      const before = held.size === 2 && spread();
      held.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (before) {
        const after = spread();
        this.orbit.move(after.x - before.x, after.y - before.y);
        this.orbit.zoom(before.size / Math.max(1, after.size));
      } else {
        const by = [event.clientX - old.x, event.clientY - old.y];
        if (event.shiftKey || event.buttons === 4) this.orbit.move(...by);
        else this.orbit.turn(...by);
      }
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.setFree();
      this.orbit.zoom(Math.exp(0.001 * event.deltaY));
    }, { passive: false });
  }

  // Switches to mouse control, from the current pose of the camera.
  setFree() {
    if (this.camera === FREE || !this.episode) return;
    const poses = this.episode.at(this.step), along = this.along(this.episode, poses);
    const { scene } = this.task, seen = named(scene, poses, this.camera);
    this.orbit.target = [...scene.center];
    this.orbit.from({ ...seen, eye: add(seen.eye, along, -1) });
    this.camera = FREE;
    $("camera").value = FREE;
  }

  // Displacement of the scene's own camera since the start, by which the orbit follows it.
  along(episode, poses) {
    if (this.own < 0) return [0, 0, 0];
    const place = this.task.scene.num_bodies + this.own;
    return add(pose(poses, place)[0], pose(episode.at(0), place)[0], -1);
  }

  go(step) { this.step = Math.max(0, Math.min(step, this.episode.steps)); }

  advance(seconds) {
    if (!this.episode || !this.playing) return;
    const end = this.episode.steps;
    if (this.step < end) {
      this.go(this.step + (Number($("speed").value) * Math.min(seconds, 0.1)) / this.episode.dt);
      this.rest = 0;
    } else if ((this.rest += seconds) > 1.2) this.playOn();
  }

  // Plays again from the start; live, plays the next episode, then the next trial.
  playOn() {
    this.step = 0;
    if (!this.live) return;
    const next = this.task.episodes.indexOf(this.episode) + 1, task = this.tasks.indexOf(this.task);
    if (next < this.task.episodes.length) this.chooseEpisode(next);
    else if (task + 1 < this.tasks.length) this.chooseTask(task + 1);
  }

  paint() {
    if (!this.episode) return;
    const { episodes } = this.task, place = episodes.indexOf(this.episode);
    const shown = $("beside").checked && episodes.length > 1
      ? [[this.task, episodes[0]], [this.task, this.episode]]
      : this.peers.map((task) => [task, task.episodes[Math.min(place, task.episodes.length - 1)]]);
    this.painter.begin();
    shown.forEach(([task, episode], part) => {
      const poses = episode.at(this.step);
      const camera = this.camera === FREE
        ? this.orbit.seen(this.along(episode, poses)) : named(task.scene, poses, this.camera);
      this.painter.draw(task.scene, poses, camera, part, shown.length);
      this.caption(part, task, episode);
    });
    [...$("captions").children].forEach((one, part) => { one.hidden = part >= shown.length; });
    $("play").textContent = this.playing ? "pause" : "play";
    $("step").max = this.episode.steps;
    $("step").value = this.step;
    this.timeline();
  }

  caption(part, task, episode) {
    const place = $("captions").children[part] ?? $("captions").appendChild(document.createElement("div"));
    const step = Math.min(Math.round(this.step), episode.steps), success = episode.succeededBy(step);
    const text = (task.agent ? `${task.agent}\n` : "") + `${task.name}, task ${task.task}\n` +
      `${experience(episode)}\n` +
      `step ${step} of ${episode.steps} · return ${episode.returnAt(step).toFixed(1)}\n`;
    if (place.dataset.text === text + success) return;
    place.dataset.text = text + success;
    const outcome = Object.assign(document.createElement("span"), {
      className: success ? "good" : "bad", textContent: success ? "✓ success" : "no success yet",
    });
    place.replaceChildren(text, outcome);
  }

  // Draws the reward over the episode, green at successful steps, and the current step.
  timeline() {
    const canvas = document.querySelector("#timeline canvas"), scale = devicePixelRatio || 1;
    const width = (canvas.width = canvas.clientWidth * scale);
    const height = (canvas.height = canvas.clientHeight * scale);
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.body);
    const color = (name) => style.getPropertyValue(name);
    const { rewards, successes, steps } = this.episode;
    const low = Math.min(0, ...rewards), high = Math.max(1e-9, ...rewards);
    const x = (k) => (k / Math.max(1, steps)) * (width - 2) + 1;
    pen.fillStyle = color("--line");
    pen.beginPath();
    pen.moveTo(x(0), height);
    rewards.forEach((reward, k) =>
      pen.lineTo(x(k + 1), height - 6 * scale - ((reward - low) / (high - low)) * (height - 8 * scale)));
    pen.lineTo(x(steps), height);
    pen.fill();
    pen.fillStyle = color("--good");
    successes.forEach((success, k) => {
      if (success) pen.fillRect(x(k), height - 5 * scale, x(k + 1) - x(k) + 0.5, 5 * scale);
    });
    pen.fillStyle = color("--accent");
    pen.fillRect(x(this.step) - scale, 0, 2 * scale, height);
  }

  // Fetches the next trial of a live agent, which its server plays on request.
  async more() {
    if (this.asked) return;
    this.asked = true;
    const answer = await fetch("next");
    if (!answer.ok) return this.say("The agent has stopped playing; the terminal says why.");
    this.tasks.push(...this.prepare(await answer.json()));
    // Memory must not grow for hours: the oldest trials are dropped, but not the shown one.
    while (this.tasks.length > KEPT_TRIALS) {
      const oldest = this.tasks.findIndex((task) => task !== this.task);
      this.painter.forget(this.tasks.splice(oldest, 1)[0].scene);
    }
    this.asked = false;
    this.listTasks();
    if (this.task) $("task").value = this.tasks.indexOf(this.task);
    else this.chooseTask(0);
  }

  say(message) {
    $("message").textContent = message;
    $("message").hidden = !message;
  }
}

try {
  window.replay = new Replay(await unpack());
} catch (error) {
  $("message").textContent = error.message;
}
