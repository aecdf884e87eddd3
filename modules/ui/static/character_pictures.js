// Pictures of characters as PNG, in which cards are kept: other formats are drawn again.
import { hueOf, firstLetter, pictureOf } from "./avatar.js";
import { reach } from "./chat_client.js";
import { make } from "./dom.js";
import { toast } from "./popups.js";
import { language } from "./texts.js";

const MAX_SIDE = 1024; // of a picture that is drawn again, in pixels
const MAX_KEPT_BYTES = 4_000_000; // a larger PNG file is made smaller
const [WIDTH, HEIGHT] = [400, 600]; // of the picture for a character that has none

const drawn = (width, height, draw) => {
  const canvas = make("canvas", { width, height });
  draw(canvas.getContext("2d"));
  return new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no PNG"))), "image/png"));
};

/** Return a picture as PNG. Throws an Error for what the browser cannot show. */
export async function asPng(file) {
  const bitmap = await createImageBitmap(file);
  try {
    if (file.type === "image/png" && file.size <= MAX_KEPT_BYTES) return file;
    const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
    const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
    return await drawn(width, height, (context) => context.drawImage(bitmap, 0, 0, width, height));
  } finally {
    bitmap.close();
  }
}

/** Return the first letter of a name as a picture. */
const letterPicture = (name) =>
  drawn(WIDTH, HEIGHT, (context) => {
    context.fillStyle = `hsl(${hueOf(name)} 42% 88%)`;
    context.fillRect(0, 0, WIDTH, HEIGHT);
    context.fillStyle = `hsl(${hueOf(name)} 45% 30%)`;
    context.font = "600 180px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(firstLetter(name), WIDTH / 2, HEIGHT / 2);
  });

/** Save the PNG card of a character whose picture is of another format, or who has none. */
export async function exportCard({ id, name, picture }) {
  try {
    const png = picture ? await asPng(await (await reach(pictureOf(id, picture))).blob()) : await letterPicture(name);
    const answer = await reach(`/characters/${encodeURIComponent(id)}/card?lang=${language}`, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: png });
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? answer.statusText);
    const address = URL.createObjectURL(await answer.blob());
    make("a", { href: address, download: `${id}.png` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  } catch (error) {
    toast(error.message);
  }
}
