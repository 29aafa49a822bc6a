// Shows the OpenAPI document of the server that this page comes from, and sends requests to it.
// Everything that is shown is set as text: nothing in the document can become markup.

const METHODS = ["get", "post", "put", "patch", "delete"];
const byId = (id) => document.getElementById(id);

// Makes an element. Children are elements or text; what is null or false is left out.
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") element.addEventListener("click", value);
    else if (value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== false));
  return element;
}

function resolve(spec, part) {
  while (part?.$ref) {
    part = part.$ref.slice(2).split("/").reduce((at, name) => at?.[name], spec);
  }
  return part;
}

// Says what a schema takes, in a few words.
function typeOf(spec, schema) {
  if (schema?.$ref) return schema.$ref.split("/").pop();
  if (!schema) return "any";
  if (schema.enum) return schema.enum.join(" | ");
  for (const word of ["oneOf", "anyOf", "allOf"]) {
    if (schema[word]) return schema[word].map((one) => typeOf(spec, one)).join(word === "allOf" ? " & " : " | ");
  }
  if (schema.type === "array") return `list of ${typeOf(spec, schema.items)}`;
  const kind = [schema.type ?? "any"].flat().join(" | ");
  return schema.format ? `${kind} (${schema.format})` : kind;
}

// Makes a value that a schema takes, of what is needed and nothing else. `above` are the schemas that it is a part of.
function sample(spec, schema, above = []) {
  const name = schema?.$ref;
  if (above.includes(name)) return null;
  const inside = name ? [...above, name] : above;
  const whole = resolve(spec, schema) ?? {};
  if (whole.example !== undefined) return whole.example;
  if (whole.default !== undefined) return whole.default;
  if (whole.enum) return whole.enum[0];
  const choices = whole.oneOf ?? whole.anyOf;
  if (choices) return sample(spec, choices.find((one) => one.type !== "null"), inside);
  if (whole.allOf) return Object.assign({}, ...whole.allOf.map((one) => sample(spec, one, inside)));
  switch ([whole.type].flat()[0]) {
    case "object":
      return Object.fromEntries(
        (whole.required ?? []).map((key) => [key, sample(spec, whole.properties?.[key], inside)]),
      );
    case "array": return [sample(spec, whole.items, inside)];
    case "integer":
    case "number": return whole.minimum ?? 0;
    case "boolean": return false;
    case "string": return "";
    default: return null;
  }
}

function fieldsTable(spec, schema) {
  const whole = resolve(spec, schema) ?? {};
  const rows = Object.entries(whole.properties ?? {}).map(([name, part]) => {
    const said = resolve(spec, part)?.description ?? "";
    return make("tr", {},
      make("td", {}, make("code", {}, name), whole.required?.includes(name) ? " *" : ""),
      make("td", {}, typeOf(spec, part)),
      make("td", {}, part.description ?? said));
  });
  return rows.length > 0 && make("table", {}, rows);
}

function parametersTable(parameters, inputs) {
  const rows = parameters.map((parameter) => {
    const input = make("input", { "aria-label": parameter.name, placeholder: parameter.example });
    inputs.push([parameter, input]);
    return make("tr", {},
      make("td", {}, make("code", {}, parameter.name), parameter.required ? " *" : ""),
      make("td", {}, parameter.in),
      make("td", {}, parameter.description ?? ""),
      make("td", {}, input));
  });
  return make("table", {}, rows);
}

function answersTable(spec, responses) {
  const rows = Object.entries(responses).map(([status, part]) => {
    const response = resolve(spec, part);
    const [type, content] = Object.entries(response.content ?? {})[0] ?? ["", {}];
    const shape = Number(status) < 300 && content.schema ? typeOf(spec, content.schema) : "";
    return make("tr", {},
      make("td", {}, status),
      make("td", {}, response.description),
      make("td", {}, make("code", {}, shape), shape && type && make("br", {}), make("small", {}, type)));
  });
  return make("table", {}, rows);
}

// Puts together what was filled in; the fields of the page stay as they are.
function request(method, path, inputs, body) {
  const query = new URLSearchParams();
  const headers = {};
  let url = path;
  for (const [parameter, input] of inputs) {
    if (input.value === "" && parameter.in !== "path") continue;
    if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    if (parameter.in === "query") query.append(parameter.name, input.value);
    if (parameter.in === "header") headers[parameter.name] = input.value;
  }
  const key = byId("key").value.trim();
  if (key) headers["X-API-Key"] = key;
  if (body) headers["Content-Type"] = "application/json";
  const asked = query.size > 0 ? `${url}?${query}` : url;
  return [asked, { method: method.toUpperCase(), headers, body: body?.value, credentials: "omit", cache: "no-store" }];
}

async function send(method, path, inputs, body, shown) {
  const [url, options] = request(method, path, inputs, body);
  shown.replaceChildren(make("p", {}, `${options.method} ${url}`));
  try {
    const answer = await fetch(url, options);
    let text = await answer.text();
    if (/json/.test(answer.headers.get("content-type") ?? "")) text = JSON.stringify(JSON.parse(text), null, 2);
    const id = answer.headers.get("x-request-id");
    shown.append(make("p", {}, `${answer.status} ${answer.statusText}${id ? `, request ${id}` : ""}`), text && make("pre", {}, text));
  } catch (error) {
    shown.append(make("p", {}, `There was no answer: ${error.message}`));
  }
}

function operationCard(spec, method, path, operation) {
  const parameters = (operation.parameters ?? []).map((part) => resolve(spec, part));
  const bodySchema = resolve(spec, operation.requestBody)?.content?.["application/json"]?.schema;
  const streams = operation.responses["200"]?.content?.["text/event-stream"];
  const inputs = [];
  const body = bodySchema ? make("textarea", { rows: 6, spellcheck: "false", "aria-label": "Body" }) : null;
  if (body) body.value = JSON.stringify(sample(spec, bodySchema), null, 2);
  const shown = make("div", { "aria-live": "polite" });
  return make("details", { id: operation.operationId },
    make("summary", {},
      make("span", { class: "method" }, method.toUpperCase()),
      make("code", {}, path),
      make("span", { class: "said" }, operation.summary ?? "")),
    make("div", {},
      operation.description ? make("p", {}, operation.description) : null,
      parameters.length > 0 && [make("h3", {}, "Parameters"), parametersTable(parameters, inputs)],
      body && [make("h3", {}, "Body"), fieldsTable(spec, bodySchema), body],
      make("button", { type: "button", disabled: streams ? "" : undefined, onclick: () => send(method, path, inputs, body, shown) },
        streams ? "Follow this one with curl -N" : "Send"),
      shown,
      make("h3", {}, "Answers"),
      answersTable(spec, operation.responses)));
}

function show(spec) {
  document.title = `${spec.info.title} API ${spec.info.version}`;
  byId("title").textContent = document.title;
  byId("description").textContent = spec.info.description ?? "";
  byId("operations").replaceChildren();
  for (const tag of spec.tags) {
    const heading = make("h2", { id: `tag-${tag.name}` }, tag.name);
    byId("contents").append(make("h3", {}, tag.name));
    byId("operations").append(heading, make("p", {}, tag.description ?? ""));
    for (const [path, item] of Object.entries(spec.paths)) {
      for (const method of METHODS.filter((word) => item[word]?.tags.includes(tag.name))) {
        const card = operationCard(spec, method, path, item[method]);
        const open = () => { card.open = true; };
        byId("contents").append(make("a", { href: `#${card.id}`, onclick: open }, item[method].summary));
        byId("operations").append(card);
      }
    }
  }
  const named = location.hash && byId(location.hash.slice(1));
  if (named) {
    named.open = true;
    named.scrollIntoView();
  }
}

try {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  show(await answer.json());
} catch (error) {
  byId("operations").textContent = `The document could not be read: ${error.message}`;
}
