// The stop: one press from anywhere, latched in the server, and two deliberate ones to release it.

import { $, say } from "./page.js";

const CONFIRM_MS = 1000;
const OWN_KEYS = "input, textarea, select, button, a, summary, label, dialog, [tabindex]";

export function stopButton(send) {
  let owed = false; // asked for, and not yet confirmed by the server
  let doubt = ""; // what to say of that
  let why = null;
  let timer = 0;

  function stop() {
    owed = true;
    doubt = "";
    clearTimeout(timer);
    if (send({ stop: true })) timer = setTimeout(worry, CONFIRM_MS, "The server has not confirmed the stop.");
    else worry("No link to the server. The stop is sent as soon as there is one.");
    show();
  }

  function worry(text) {
    doubt = `${text} Use the robot's own stop.`;
    show();
  }

  function show() {
    const latched = why !== null;
    const button = $("stop");
    button.setAttribute("aria-pressed", String(latched));
    say(button.firstChild, latched ? "STOPPED" : owed ? "STOPPING" : "STOP");
    say($("latch"), doubt || (latched ? `Stopped ${why}. Nothing moves until you release it.` : ""));
    $("release").hidden = !latched;
    if (!latched) ask(false);
  }

  function ask(open) {
    $("release-sure").hidden = !open;
    $("release-ask").hidden = open;
    $("release-ask").setAttribute("aria-expanded", String(open));
  }

  $("stop").onclick = stop;
  $("release-ask").onclick = () => {
    ask(true);
    $("release-no").focus();
  };
  $("release-no").onclick = () => {
    ask(false);
    $("release-ask").focus();
  };
  $("release-yes").onclick = () => {
    send({ release: true });
    ask(false);
    $("instruction").focus();
  };
  document.addEventListener("keydown", (event) => {
    const space = event.key === " " && !event.target.closest(OWN_KEYS);
    if ((event.key === "Escape" || space) && !event.repeat) {
      event.preventDefault();
      ask(false);
      stop();
    }
  });

  return {
    /** There is a link again. */
    linked: () => owed && stop(),
    /** The server says that it is stopped. */
    confirmed: () => {
      clearTimeout(timer);
      owed = false;
      doubt = "";
    },
    /** Why the robot is stopped, here or on its own side; null if it is not. */
    latched: (reason) => {
      why = reason;
      show();
    },
  };
}
