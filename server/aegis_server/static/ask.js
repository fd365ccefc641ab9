// Questions about what a camera shows now, or about a picture of one's own.

import { $, chips, make } from "./page.js";
import { ask, events } from "./server.js";

const UPLOAD = "an upload";
const MAX_FILE = 11 * 2 ** 20; // in base64 it still fits the server's largest body
const QUESTIONS = ["how many objects are there?", "what is the gripper holding?", "is there a red cube?"];

export function askBox(cameras) {
  let policy = null;

  const chosen = () => document.querySelector("#sources :checked")?.value ?? UPLOAD;
  const shownRow = () => {
    $("upload-row").hidden = chosen() !== UPLOAD;
  };

  function robot(robot, info) {
    policy = info;
    const before = document.querySelector("#sources :checked")?.value;
    const fits = (camera) =>
      robot?.cameras.some((own) => own.name === camera.name && own.width === camera.width && own.height === camera.height);
    const live = info.cameras.filter(fits).map((camera) => camera.name);
    const picked = [...live, UPLOAD].includes(before) && (before !== UPLOAD || $("upload").files.length) ? before : live[0] ?? UPLOAD;
    $("sources").replaceChildren(
      ...[...live, UPLOAD].map((name) => {
        const radio = make("input", { type: "radio", name: "source", value: name, checked: name === picked, onchange: shownRow });
        return make("label", {}, radio, name === UPLOAD ? "my own picture" : `${name} camera`);
      }),
    );
    shownRow();
  }

  async function submit(event) {
    event.preventDefault();
    const question = $("question").value.trim();
    if (!question) return $("question").focus();
    const source = chosen();
    const picture = source === UPLOAD ? await read($("upload").files[0]) : cameras.shown(source);
    const entry = logged(question, picture);
    try {
      if (!picture) throw new Error(source === UPLOAD ? "Choose a picture first." : `No picture comes from the camera ${source}.`);
      if (source === UPLOAD && $("upload").files[0].size > MAX_FILE) throw new Error("The picture is larger than 11 MB.");
      const response = source === UPLOAD ? await aboutUpload(question, picture) : await aboutLive(source, question, picture);
      for await (const said of events(response)) entry.add(said.token ?? said.choices?.[0]?.delta?.content ?? "");
      entry.end();
    } catch (error) {
      entry.refuse(error.message);
    }
  }

  const aboutLive = (camera, question, uri) =>
    ask("v1/ask", { images: { [camera]: uri.slice(uri.indexOf(",") + 1) }, question, stream: true });

  async function aboutUpload(question, url) {
    policy ??= await (await ask("v1/info")).json(); // whoever asks at once is quicker than the socket
    const content = [{ type: "image_url", image_url: { url } }, { type: "text", text: question }];
    return ask("v1/chat/completions", { model: policy.model, stream: true, messages: [{ role: "user", content }] });
  }

  $("ask").onsubmit = submit;
  $("upload").onchange = () => {
    const file = $("upload").files[0];
    if ($("preview").src) URL.revokeObjectURL($("preview").src);
    $("preview").hidden = !file;
    if (!file) return;
    $("preview").src = URL.createObjectURL(file);
    $("preview").alt = `The chosen picture, ${file.name}`;
  };
  chips($("questions"), QUESTIONS, $("question"));
  return { robot };
}

/** An entry of the log. It is read out when it is whole, not word by word. */
function logged(question, picture) {
  const log = $("log");
  log.querySelector(".empty")?.remove();
  const answer = make("p", { className: "streaming" });
  const image = picture ? [make("img", { src: picture, alt: "The picture asked about" })] : [];
  log.setAttribute("aria-busy", "true");
  log.append(make("article", {}, ...image, make("h3", { textContent: question }), answer));
  const scroll = () => log.scrollTo({ top: log.scrollHeight });
  scroll();
  const end = () => {
    answer.classList.remove("streaming");
    log.setAttribute("aria-busy", "false");
    scroll();
  };
  return {
    add: (piece) => {
      answer.textContent += piece;
      scroll();
    },
    end,
    refuse: (why) => {
      answer.classList.add("refused");
      answer.textContent += why;
      end();
    },
  };
}

function read(file) {
  if (!file) return null;
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
