// The stop: one press from anywhere, latched in the server, and two deliberate ones to release it.

import { $ } from "./page.js";

const OWN_KEYS = "input, textarea, select, button, a, summary, label, dialog, [tabindex]";

export function stopButton(send) {
  let owed = false; // a stop that could not be sent yet
  let why = null;

  function stop() {
    owed = !send({ stop: true });
    if (owed) show();
  }

  function show() {
    const latched = why !== null;
    const button = $("stop");
    button.setAttribute("aria-pressed", String(latched));
    button.firstChild.textContent = latched ? "STOPPED" : "STOP";
    document.body.classList.toggle("latched", latched);
    const text = latched
      ? `Stopped ${why}. Nothing moves until you release it.`
      : "No link to the server. The stop is sent as soon as there is one; use the robot's own stop.";
    if ($("latch").textContent !== (latched || owed ? text : "")) $("latch").textContent = latched || owed ? text : "";
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
    /** Why the robot is stopped, here or on its own side; null if it is not. */
    latched: (reason) => {
      why = reason;
      show();
    },
  };
}
