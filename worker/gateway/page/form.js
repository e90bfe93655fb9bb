// The form: what it sends, where it shows what is wrong, and what it remembers.

import { $, el } from "./dom.js";

const FORM = "sdxl-form";
const SIZES = [
  ["1024 × 1024", 1024, 1024], ["1152 × 896", 1152, 896], ["1216 × 832", 1216, 832], ["1344 × 768", 1344, 768],
  ["896 × 1152", 896, 1152], ["832 × 1216", 832, 1216], ["768 × 1344", 768, 1344], ["768 × 768", 768, 768],
  ["512 × 512", 512, 512], ["128 × 128", 128, 128],
];
const OTHER = "other";

// True where the form was filled in as it was sent last.
export function prepareForm() {
  $("size").append(...SIZES.map(([name, width, height]) => el("option", { value: `${width}x${height}` }, name)));
  $("size").append(el("option", { value: OTHER }, "Other…"));
  $("size").addEventListener("change", showSize);
  $("add-lora").addEventListener("click", () => addLora().querySelector("input").focus());
  $("form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      $("form").requestSubmit();
    }
  });
  for (const area of $("form").querySelectorAll("textarea")) area.addEventListener("input", () => grow(area));
  showSize();
  try {
    const last = JSON.parse(localStorage.getItem(FORM) ?? "null");
    if (last) fillForm(last);
    return last !== null;
  } catch {
    // It was stored by something else.
    return false;
  }
}

export function setSize(width, height) {
  if (!width || !height) return;
  const known = SIZES.some(([, w, h]) => w === width && h === height);
  $("size").value = known ? `${width}x${height}` : OTHER;
  $("width").value = width;
  $("height").value = height;
  showSize();
}

// Bounds of this installation, from its description.
export function setLimits(properties) {
  for (const name of ["num_inference_steps", "guidance_scale", "width", "height"]) {
    if (properties[name]?.minimum !== undefined) $(name).min = properties[name].minimum;
    if (properties[name]?.maximum !== undefined) $(name).max = properties[name].maximum;
  }
  const most = properties.loras?.maxItems;
  if (most !== undefined) $("loras").dataset.most = most;
  if (properties.prompt?.maxLength) $("prompt").maxLength = $("negative_prompt").maxLength = properties.prompt.maxLength;
}

export function setProfiles(profiles) {
  $("profiles").replaceChildren(
    ...profiles.map((profile) => el("option", { value: profile.name }, profile.description || profile.name)),
  );
}

// The request that the form describes. Throws { field, message } where a number is none.
export function readForm() {
  const size = $("size").value === OTHER ? null : $("size").value.split("x").map(Number);
  const request = {
    prompt: $("prompt").value.trim(),
    girl_id: $("girl_id").value.trim(),
    user_id: number("user_id", 1),
    priority: $("form").elements.priority.value,
    width: size ? size[0] : number("width", 1024),
    height: size ? size[1] : number("height", 1024),
    num_inference_steps: number("num_inference_steps", 30),
    guidance_scale: number("guidance_scale", 7.5),
    high_quality: $("high_quality").checked,
    loras: [...$("loras").children].map(readLora).filter((lora) => lora.name),
  };
  if (!request.prompt) throw { field: "prompt", message: "Say what the picture should show." };
  if (!request.girl_id) throw { field: "girl_id", message: "Name a profile, or any id: test will do." };
  if ($("negative_prompt").value.trim()) request.negative_prompt = $("negative_prompt").value.trim();
  const seed = number("seed", null);
  if (seed !== null) request.seed = seed;
  localStorage.setItem(FORM, JSON.stringify(request));
  return request;
}

export function fillForm(request) {
  for (const name of ["prompt", "girl_id", "user_id", "num_inference_steps", "guidance_scale"]) {
    if (request[name] !== undefined) $(name).value = request[name];
  }
  $("negative_prompt").value = request.negative_prompt ?? "";
  $("seed").value = request.seed ?? "";
  $("high_quality").checked = request.high_quality === true;
  if (["urgent", "high", "normal"].includes(request.priority)) $("form").elements.priority.value = request.priority;
  setSize(request.width, request.height);
  $("loras").replaceChildren();
  for (const lora of request.loras ?? []) addLora(lora);
  for (const area of $("form").querySelectorAll("textarea")) grow(area);
}

// Shows a sentence at the field that it is about, and moves the focus there; at the button where it is about none.
export function showProblem(field, message) {
  clearProblems();
  const name = (field ?? "").split(/[.[]/)[0];
  if (name === "width" || name === "height") openSize();
  const place = [...$("form").querySelectorAll(`[data-field="${CSS.escape(name)}"]`)].find((found) => !found.hidden && found.offsetParent);
  const input = place?.querySelector("textarea, input, select");
  if (!input) {
    $("form-error").textContent = message;
    $("form-error").hidden = false;
    return;
  }
  place.closest("details")?.setAttribute("open", "");
  const sentence = el("p", { class: "error", id: `${name}-error` }, message);
  place.append(sentence);
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-describedby", sentence.id);
  input.focus();
}

export function clearProblems() {
  $("form-error").hidden = true;
  for (const sentence of $("form").querySelectorAll(".field > .error")) sentence.remove();
  for (const input of $("form").querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-describedby");
  }
}

function number(id, otherwise) {
  const input = $(id);
  if (input.validity.badInput) throw { field: id, message: "This is not a number." };
  return input.value.trim() === "" ? otherwise : Number(input.value);
}

function showSize() {
  $("custom-size").hidden = $("size").value !== OTHER;
}

function openSize() {
  $("size").value = OTHER;
  showSize();
}

function addLora(lora = { name: "", weight: 1 }) {
  const row = el("li", {},
    el("input", { "aria-label": "Name of the LoRA", class: "lora-name", placeholder: "name", spellcheck: "false", autocapitalize: "none" }),
    el("input", { "aria-label": "Weight", class: "lora-weight", type: "number", step: "0.05", inputmode: "decimal" }),
    el("button", { type: "button", class: "icon", "aria-label": "Remove this LoRA", onclick: () => remove(row) }, "×"),
  );
  row.querySelector(".lora-name").value = lora.name;
  row.querySelector(".lora-weight").value = lora.weight ?? 1;
  $("loras").append(row);
  countLoras();
  return row;
}

function remove(row) {
  row.remove();
  countLoras();
  $("add-lora").focus();
}

function countLoras() {
  $("add-lora").disabled = $("loras").children.length >= Number($("loras").dataset.most ?? 8);
}

function readLora(row) {
  const weight = row.querySelector(".lora-weight").value.trim();
  return { name: row.querySelector(".lora-name").value.trim(), weight: weight === "" ? 1 : Number(weight) };
}

function grow(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}
