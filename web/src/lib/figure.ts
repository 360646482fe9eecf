/** A chart as a file for a paper: SVG, CSV or LaTeX, with what it was made of. */
import type { Line } from "./curves";
import { precise } from "./format";

export interface Figure {
  xLabel: string;
  yLabel: string;
  lines: readonly (Line & { stroke: string })[];
  /** The highest value that is drawn. */
  top?: number | undefined;
  /** The jobs behind the lines, and their specs. */
  source: unknown;
}

const WIDTH = 640;
const HEIGHT = 420;
const MARGIN = { left: 62, right: 16, top: 14, bottom: 46 };

export function toSvg(figure: Figure): string {
  const lines = figure.lines;
  const xs = lines.flatMap((line) => line.x);
  const ys = lines.flatMap((line) => line.y.filter((value) => value !== null));
  const [xLow, xHigh] = [low(xs), high(xs)];
  const [yLow, yHigh] = [Math.min(0, low(ys)), figure.top ?? high(ys)];
  const left = (x: number) =>
    round(MARGIN.left + ((x - xLow) / (xHigh - xLow || 1)) * (WIDTH - MARGIN.left - MARGIN.right));
  const up = (y: number) =>
    round(
      HEIGHT -
        MARGIN.bottom -
        ((Math.min(y, yHigh) - yLow) / (yHigh - yLow || 1)) * (HEIGHT - MARGIN.top - MARGIN.bottom),
    );
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="12">`,
    `<metadata>${escaped(JSON.stringify(figure.source))}</metadata>`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
  ];
  for (const tick of ticks(xLow, xHigh))
    parts.push(
      `<path d="M${left(tick)} ${MARGIN.top}V${HEIGHT - MARGIN.bottom}" stroke="#e4e4e4"/>`,
      `<text x="${left(tick)}" y="${HEIGHT - MARGIN.bottom + 18}" text-anchor="middle">${precise(tick)}</text>`,
    );
  for (const tick of ticks(yLow, yHigh))
    parts.push(
      `<path d="M${MARGIN.left} ${up(tick)}H${WIDTH - MARGIN.right}" stroke="#e4e4e4"/>`,
      `<text x="${MARGIN.left - 8}" y="${up(tick) + 4}" text-anchor="end">${precise(tick)}</text>`,
    );
  for (const line of lines) {
    if (line.low && line.high) parts.push(bandOf(line, left, up));
    const path = pathOf(line, left, up);
    const dash = line.dash ? ` stroke-dasharray="${line.dash.join(" ")}"` : "";
    const opacity = line.faint ? ' stroke-opacity="0.35"' : "";
    parts.push(
      `<path d="${path}" fill="none" stroke="${line.stroke}" stroke-width="${line.width ?? 1.5}"${dash}${opacity}/>`,
    );
  }
  lines
    .filter((line) => !line.faint)
    .forEach((line, index) => {
      const y = MARGIN.top + 14 + 17 * index;
      const x = WIDTH - MARGIN.right - 10;
      const dash = line.dash ? ` stroke-dasharray="${line.dash.join(" ")}"` : "";
      parts.push(
        `<path d="M${x - 26} ${y - 4}h26" stroke="${line.stroke}" stroke-width="${line.width ?? 1.5}"${dash}/>`,
        `<text x="${x - 32}" y="${y}" text-anchor="end">${escaped(line.label)}</text>`,
      );
    });
  parts.push(
    `<text x="${(WIDTH + MARGIN.left) / 2}" y="${HEIGHT - 8}" text-anchor="middle">${escaped(figure.xLabel)}</text>`,
    `<text transform="translate(16 ${HEIGHT / 2 - 16}) rotate(-90)" text-anchor="middle">${escaped(figure.yLabel)}</text>`,
    "</svg>",
  );
  return `${parts.join("\n")}\n`;
}

export function toCsv(figure: Figure): string {
  const rows = [`# ${JSON.stringify(figure.source)}`, "line,x,y,low,high"];
  for (const line of figure.lines)
    line.x.forEach((x, index) => {
      const values = [x, line.y[index], line.low?.[index], line.high?.[index]];
      const label = /[",]/.test(line.label) ? `"${line.label.replaceAll('"', '""')}"` : line.label;
      rows.push([label, ...values.map((value) => value ?? "")].join(","));
    });
  return `${rows.join("\n")}\n`;
}

/** A picture for pgfplots; `\input` it in a document with \usepackage{pgfplots}. */
export function toLatex(figure: Figure): string {
  const top = figure.top === undefined ? "" : `, ymax=${figure.top}`;
  const rows = [
    `% ${JSON.stringify(figure.source)}`,
    "\\begin{tikzpicture}",
    `\\begin{axis}[xlabel={${latex(figure.xLabel)}}, ylabel={${latex(figure.yLabel)}}, ymin=0${top}, no marks, grid=major, legend cell align=left]`,
  ];
  for (const line of figure.lines) {
    const color = line.stroke.replace(/^#/, "");
    const style = [
      `color={rgb,255:red,${Number.parseInt(color.slice(0, 2), 16)};green,${Number.parseInt(color.slice(2, 4), 16)};blue,${Number.parseInt(color.slice(4, 6), 16)}}`,
      line.dash ? "dashed" : "solid",
      `line width=${((line.width ?? 1.5) * 0.6).toFixed(1)}pt`,
      ...(line.faint ? ["opacity=0.35", "forget plot"] : []),
    ].join(", ");
    const points = line.x.flatMap((x, index) => {
      const y = line.y[index];
      return y === null || y === undefined ? [] : [`(${x},${y})`];
    });
    rows.push(`\\addplot[${style}] coordinates {${points.join(" ")}};`);
    if (!line.faint) rows.push(`\\addlegendentry{${latex(line.label)}}`);
  }
  rows.push("\\end{axis}", "\\end{tikzpicture}");
  return `${rows.join("\n")}\n`;
}

/** The SVG as a picture of twice its size. */
export async function toPng(figure: Figure): Promise<Blob> {
  const image = new Image(2 * WIDTH, 2 * HEIGHT);
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(toSvg(figure))}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d")?.drawImage(image, 0, 0, image.width, image.height);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve));
  if (!blob) throw new Error("the browser made no picture");
  return new Blob(
    [withText(new Uint8Array(await blob.arrayBuffer()), JSON.stringify(figure.source))],
    {
      type: "image/png",
    },
  );
}

/** A PNG with a comment: a tEXt chunk before its last one, which has 12 bytes. */
export function withText(png: Uint8Array, text: string): Uint8Array<ArrayBuffer> {
  const content = new TextEncoder().encode(`tEXtComment\0${text}`);
  const made = new Uint8Array(png.length + content.length + 8);
  const end = png.length - 12;
  const view = new DataView(made.buffer);
  made.set(png.subarray(0, end));
  view.setUint32(end, content.length - 4);
  made.set(content, end + 4);
  view.setUint32(end + 4 + content.length, checksum(content));
  made.set(png.subarray(end), end + 8 + content.length);
  return made;
}

/** CRC-32, as PNG has it. */
function checksum(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** Round numbers between two values, about six. */
export function ticks(from: number, to: number): number[] {
  if (!(to > from)) return [from];
  const raw = (to - from) / 6;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999) ?? 10) * power;
  const found: number[] = [];
  for (let index = Math.ceil(from / step); index * step <= to; index++)
    found.push(Number((index * step).toPrecision(12)));
  return found;
}

type Scale = (value: number) => number;

function pathOf(line: Line, left: Scale, up: Scale): string {
  const points = line.x.flatMap((x, index) => {
    const y = line.y[index];
    return y === null || y === undefined ? [] : [`${left(x)} ${up(y)}`];
  });
  return points.length ? `M${points.join("L")}` : "";
}

function bandOf(line: Line & { stroke: string }, left: Scale, up: Scale): string {
  const upper = pathOf({ ...line, y: line.high ?? [] }, left, up);
  const lower = pathOf(
    { ...line, x: line.x.toReversed(), y: (line.low ?? []).toReversed() },
    left,
    up,
  );
  return `<path d="${upper}${lower.replace("M", "L")}Z" fill="${line.stroke}" fill-opacity="0.12"/>`;
}

const low = (values: number[]) => values.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
const high = (values: number[]) =>
  values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
const round = (value: number) => Math.round(value * 100) / 100;

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function latex(text: string): string {
  return text.replace(/([%&#_$])/g, "\\$1");
}
