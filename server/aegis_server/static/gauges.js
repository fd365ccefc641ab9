// How busy the server is, and how long the robot waits for a chunk.

import { $, make, say } from "./page.js";

const TRIPS = 40;

export function gauges() {
  let trips = [];
  let last = null;

  function milliseconds(id, value) {
    const text = value === null ? "–" : value.toFixed(0);
    if ($(id).dataset.text === text) return;
    $(id).dataset.text = text;
    $(id).replaceChildren(text, make("small", { textContent: value === null ? "" : " ms" }));
  }

  return {
    policy: (info) => say($("served"), `Serving ${info.model}, checkpoint ${info.checkpoint.slice(0, 12)}`),
    server: (server) => {
      milliseconds("p50", server.p50_ms);
      milliseconds("p95", server.p95_ms);
      say($("rate"), server.acts_per_s.toFixed(1));
      say($("waiting"), String(server.waiting));
      $("queue").max = server.room;
      $("queue").value = server.waiting;
    },
    report: (report) => {
      const number = report?.chunk?.number ?? null;
      if (number === null || number === last) return;
      last = number;
      trips = [...trips, report.latency_ms ?? 0].slice(-TRIPS);
      milliseconds("trip", report.latency_ms);
      const top = Math.max(...trips, 1);
      const points = trips.map((trip, i) => `${((i / Math.max(trips.length - 1, 12)) * 200).toFixed(1)} ${(34 - (trip / top) * 32).toFixed(1)}`);
      $("trips").firstElementChild.setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
    },
  };
}
