// The routes, by Swagger UI, from this server alone. A key is kept where the console keeps it: for this tab.

const KEY = "aegis.key";
const [form, input, wrong] = ["key-form", "key", "key-wrong"].map((id) => document.getElementById(id));

form.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, input.value.trim());
  show();
});

async function show() {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const answer = await fetch("openapi.json", { headers });
  form.hidden = answer.status !== 401;
  if (!form.hidden) {
    wrong.textContent = key === null ? "" : "The server does not know this key.";
    input.focus();
    return;
  }
  const requestInterceptor = (request) => {
    request.headers = { ...headers, ...request.headers };
    return request;
  };
  SwaggerUIBundle({ spec: await answer.json(), dom_id: "#routes", requestInterceptor });
}

show();
