// The page of the service: it sends the files of one scan, follows the job, and shows the lesions.

const find = (id) => document.getElementById(id);
const STAGES = {
  unpacking: "The files are being unpacked.",
  reading: "The scan is being read.",
  searching: "Lesions are being searched. This takes most of the time.",
  describing: "The lesions are being measured.",
  writing: "The results are being written.",
};
const FILES = {
  "lesions.json": "lesions with boxes, scores and measures",
  "instances.nii.gz": "instance map: one number per lesion",
  "mask.nii.gz": "mask of the classes",
  "segmentation.dcm": "DICOM segmentation",
  "report.dcm": "DICOM structured report",
  "report.html": "report to print",
};

let job = null;
let view = null;

function say(text, failed = false) {
  find("status").textContent = text;
  find("status").classList.toggle("failed", failed);
}

/** Return the text of an error that the service sent. */
function describe(error) {
  const lines = [error.problem];
  if (error.file) lines.push(`File: ${error.file}`);
  if (error.value) lines.push(`Found: ${error.value}`);
  if (error.expected) lines.push(`Expected: ${error.expected}`);
  if (error.remedy) lines.push(`Remedy: ${error.remedy}`);
  return lines.join("\n");
}

/** Send a request; throw an error with the text of the service if the service refuses it. */
async function ask(address, options = {}) {
  const response = await fetch(address, options);
  if (response.ok) return response;
  if (response.status === 401) find("login").hidden = false;
  const body = await response.json().catch(() => ({ error: { problem: `status ${response.status}` } }));
  throw new Error(describe(body.error));
}

async function enter() {
  try {
    const body = JSON.stringify({ token: find("token").value });
    await ask("/v1/session", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    find("token").value = "";
    find("login").hidden = true;
    say("");
  } catch (error) {
    say(error.message, true);
  }
}

async function send(files) {
  if (!files.length) return;
  find("result").hidden = true;
  const body = new FormData();
  for (const file of files) body.append("file", file);
  say("The files are being sent.");
  try {
    job = await (await ask("/v1/jobs", { method: "POST", body })).json();
    follow(job.id);
  } catch (error) {
    say(error.message, true);
  }
}

function follow(id) {
  const events = new EventSource(`/v1/jobs/${id}/events`);
  events.addEventListener("job", (event) => {
    job = JSON.parse(event.data);
    if (job.state === "queued") say(`Waiting; ${job.position || 0} scan(s) come first.`);
    if (job.state === "running") say(STAGES[job.stage] || "The scan is being predicted.");
    if (job.state === "failed") say(describe(job.error), true);
    if (job.state === "succeeded") show(job).catch((error) => say(error.message, true));
    if (job.state === "failed" || job.state === "succeeded") events.close();
  });
  events.addEventListener("deleted", () => {
    events.close();
    say("The scan was deleted.");
  });
}

async function show(finished) {
  const place = `/v1/jobs/${finished.id}/results/`;
  const data = await (await ask(`${place}viewer.json`)).json();
  const volumes = {};
  for (const [name, type] of Object.entries(data.layers)) volumes[name] = await unpack(data.volumes[name], type);
  find("summary").textContent = `${finished.lesions} lesion(s) in ${finished.files.map((file) => file.name).join(", ")}`;
  find("warnings").replaceChildren(...finished.warnings.map((text) => item(text)));
  find("reduced").textContent = data.reduced ? `The pictures are coarser than the scan: ${data.reduced}.` : "";
  find("downloads").replaceChildren(
    ...finished.results.filter((file) => FILES[file.name]).map((file) => {
      const link = document.createElement("a");
      link.href = place + file.name;
      link.textContent = file.name;
      const entry = item(`: ${FILES[file.name]}`);
      entry.prepend(link);
      return entry;
    }),
  );
  fillTable(data);
  find("result").hidden = false; // before the pictures, because a hidden canvas has no size
  const calls = { onMove: () => {}, onZoom: (steps) => setZoom(Number(find("zoom").value) + 0.5 * steps), onWindow: setWindow };
  view = new NumberedScan(find("panes"), { boxes: "#ffb000" }, calls, data.colors);
  view.load({ shape: data.shape, spacing: data.spacing, boxes: data.boxes }, volumes);
  if (data.lesions.length) choose(data.lesions[0]);
  say("");
  document.body.dataset.ready = "yes";
}

function item(text) {
  const entry = document.createElement("li");
  entry.append(text);
  return entry;
}

function fillTable(data) {
  const body = find("lesions").tBodies[0];
  body.replaceChildren();
  for (const lesion of data.lesions) {
    const row = body.insertRow();
    row.tabIndex = 0;
    row.dataset.lesion = lesion.number;
    const values = [lesion.number, lesion.class, lesion.score.toFixed(2), lesion.volume_mm3.toFixed(1), lesion.long_axis_mm.toFixed(1)];
    for (const value of values) row.insertCell().textContent = value;
    row.addEventListener("click", () => choose(lesion));
    row.addEventListener("keydown", (event) => event.key === "Enter" && choose(lesion));
  }
}

function choose(lesion) {
  for (const row of find("lesions").tBodies[0].rows) row.classList.toggle("current", row.dataset.lesion === String(lesion.number));
  view.current = [lesion.number];
  view.moveTo(lesion.point);
}

function setZoom(zoom) {
  find("zoom").value = zoom;
  if (view) view.setZoom(Number(find("zoom").value));
}

function setWindow(black, white) {
  find("black").value = black;
  find("white").value = white;
  if (view) view.setWindow(Number(find("black").value), Number(find("white").value));
}

async function remove() {
  try {
    await ask(`/v1/jobs/${job.id}`, { method: "DELETE" });
    find("result").hidden = true;
    say("The scan and its results were deleted.");
  } catch (error) {
    say(error.message, true);
  }
}

const drop = find("drop");
drop.addEventListener("click", () => find("files").click());
drop.addEventListener("keydown", (event) => event.key === "Enter" && find("files").click());
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  send(event.dataTransfer.files);
});
find("files").addEventListener("change", () => send(find("files").files));
find("enter").addEventListener("click", enter);
find("token").addEventListener("keydown", (event) => event.key === "Enter" && enter());
find("delete").addEventListener("click", remove);
find("zoom").addEventListener("input", () => setZoom(Number(find("zoom").value)));
for (const id of ["black", "white"]) {
  find(id).addEventListener("input", () => setWindow(Number(find("black").value), Number(find("white").value)));
}
find("outlines").addEventListener("change", () => view && view.setLayer("prediction", find("outlines").checked));
if (document.body.dataset.needsToken === "yes") ask("/v1/model").catch(() => {});
