// The console put together: what the server says goes to each part of the page, what people want goes to the server.

import { askBox } from "./ask.js";
import { cameras } from "./cameras.js";
import { chunkPlots } from "./chunk.js";
import { gauges } from "./gauges.js";
import { $, SILENCE_MS, chips, say } from "./page.js";
import { connect } from "./server.js";
import { stopButton } from "./stop.js";

const SUGGESTIONS = 6;

let policy = null;
let robot = null;
let report = null;
let reported = 0; // when that came, ms
let stopped = null;
let expecting = false;
let linked = false;
let refusal = "";

const pictures = cameras();
const plots = chunkPlots();
const dials = gauges();
const asking = askBox(pictures);
const send = connect({ open, message, lost });
const stop = stopButton((command) => send(command));

function open(info) {
  policy = info;
  linked = true;
  dials.policy(info);
  stop.linked();
  $("offline").hidden = true;
}

function lost() {
  linked = false;
  report = null;
  say($("offline"), "No link to the server; trying again. What is shown may be old.");
  $("offline").hidden = false;
  show();
}

function message(said) {
  if ("error" in said) {
    refusal = said.error;
    return show();
  }
  refusal = said.report?.running ? "" : refusal;
  ({ stopped, expecting } = said);
  if (stopped !== null) stop.confirmed();
  dials.server(said.server);
  if ("robot" in said) {
    robot = said.robot;
    pictures.robot(robot, policy);
    plots.robot(robot);
    asking.robot(robot, policy);
    chips($("suggestions"), (robot?.instructions ?? []).slice(0, SUGGESTIONS), $("instruction"));
  }
  if ("report" in said) {
    report = said.report;
    reported = performance.now();
    dials.report(report);
    plots.show(report?.chunk ?? null);
    if (report) pictures.frames(report.frames);
  }
  show();
}

function show() {
  $("expecting").hidden = robot !== null || !expecting;
  pictures.look();
  $("no-robot").hidden = robot !== null || expecting || !linked;
  const why = stopped ?? (report?.stopped ? `by the robot, ${report.stopped}` : null);
  stop.latched(why);
  const free = linked && report !== null && why === null;
  $("start").disabled = $("reset").disabled = !free;
  $("pause").disabled = !(free && report.running);
  const [state, text] = standing(why);
  $("status").dataset.state = state;
  say($("status").lastChild, text);
  const done = report?.success === true;
  $("doing").className = refusal ? "refused" : done ? "done" : "";
  say($("doing"), refusal || doing(done));
}

function standing(why) {
  if (!linked) return ["off", "No link to the server"];
  if (robot === null) return ["off", expecting ? "The robot is starting" : "No robot"];
  if (report === null) return ["off", `Attached · ${robot.name}`];
  if (performance.now() - reported > SILENCE_MS) return ["off", `Nothing heard from ${robot.name}`];
  if (why !== null) return ["stopped", "Stopped"];
  if (report.running) return ["running", `Running · ${robot.name}`];
  if (report.success) return ["done", `Done · ${robot.name}`];
  return ["idle", `Ready · ${robot.name}`];
}

function doing(done) {
  if (done) return `Done: ${report.instruction}`;
  if (report?.running) return report.note || `Carrying out: ${report.instruction}`;
  return report?.note ?? "";
}

function command(what) {
  refusal = "";
  send(what);
}

$("instruct").onsubmit = (event) => {
  event.preventDefault();
  const instruction = $("instruction").value.trim();
  if (instruction) command({ start: instruction });
  else $("instruction").focus();
};
$("pause").onclick = () => command({ pause: true });
$("reset").onclick = () => command({ reset: true });
$("attach").textContent = `python -m aegis_sim.live --server ${new URL(".", document.baseURI).href.replace(/\/$/, "")}`;
