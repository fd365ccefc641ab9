// The server: requests with the key, answers as they stream in, and the socket that is made again whenever it breaks.

const KEY = "aegis.key";
const RETRY_MS = 1000;
const SILENCE_MS = 3000; // the server says something twice a second

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** What a broken connection is to whoever asked: the browser's own TypeError could be any fault. */
const absent = () => {
  throw new Refused(0, "The server is not there.");
};

const address = (path) => new URL(path, document.baseURI);

/** Ask the server. Throws Refused: in the server's words, or because it is not there. */
export async function ask(path, body) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body) headers["content-type"] = "application/json";
  const asked = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) };
  const response = await fetch(address(path), asked).catch(absent);
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Refused(response.status, said.detail ?? said.error?.message ?? `${response.status} ${response.statusText}`);
  }
  return response;
}

/** The values of a response's server-sent events, one after another. Throws Refused when the server breaks off. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(absent);
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const said = JSON.parse(line.slice(6));
      if (said.detail ?? said.error) throw new Refused(response.status, said.detail ?? said.error.message);
      yield said;
    }
  }
}

/** Keep a socket to /v1/console. `open` is called with what the policy is, `message` with each message, `lost` when it breaks. */
export function connect({ open, message, lost }) {
  let socket = null;

  async function attempt() {
    try {
      const info = await (await ask("v1/info")).json();
      begin(info);
    } catch (error) {
      if (error.status === 401) await askForKey();
      else lost();
      setTimeout(attempt, error.status === 401 ? 0 : RETRY_MS);
    }
  }

  function begin(info) {
    const url = address("v1/console");
    url.protocol = url.protocol.replace("http", "ws");
    const key = sessionStorage.getItem(KEY);
    const made = new WebSocket(url, key ? ["aegis", `aegis.key.${base64url(key)}`] : ["aegis"]);
    let silence = 0;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(broken, SILENCE_MS);
    };
    const broken = () => {
      clearTimeout(silence);
      made.onopen = made.onmessage = made.onclose = null;
      made.close();
      socket = null;
      lost();
      setTimeout(attempt, RETRY_MS);
    };
    made.onopen = () => {
      socket = made;
      heard();
      open(info);
    };
    made.onmessage = (event) => {
      heard();
      message(JSON.parse(event.data));
    };
    made.onclose = broken;
  }

  attempt();
  /** Send a command; false if there is no link. */
  return (command) => {
    if (socket?.readyState !== WebSocket.OPEN) return false;
    socket.send(JSON.stringify(command));
    return true;
  };
}

function askForKey() {
  const [dialog, form, input, wrong] = ["key-dialog", "key-form", "key", "key-wrong"].map((id) => document.getElementById(id));
  const unknown = "The server does not know this key.";
  wrong.textContent = sessionStorage.getItem(KEY) === null ? "" : unknown;
  input.value = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      const key = input.value.trim();
      if (/[^ -~]/.test(key)) {
        event.preventDefault(); // a header could not even carry it
        wrong.textContent = unknown;
        return;
      }
      sessionStorage.setItem(KEY, key);
      resolve();
    };
    dialog.oncancel = (event) => event.preventDefault();
  });
}

function base64url(text) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
