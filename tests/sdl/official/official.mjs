// Answer one JSON string (the text of an SDL) a line with one JSON object a line: what the official validator
// says, and if it is content, the manifest and its hash.
import { webcrypto } from "node:crypto";
import { createInterface } from "node:readline";
import { generateManifest, generateManifestVersion, manifestToSortedJSON, validateSDL } from "@akashnetwork/chain-sdk";
import { load } from "js-yaml";

// Debian 12 has Node 18, where the Web Crypto API that the package uses is not global yet.
globalThis.crypto ??= webcrypto;

async function judge(text) {
  try {
    const sdl = load(text);
    const errors = validateSDL(sdl, "mainnet");
    if (errors) return { ok: false, errors: errors.map((error) => error.message) };
    const result = generateManifest(sdl, "mainnet");
    if (!result.ok) return { ok: false, errors: result.value.map((error) => error.message) };
    const hash = Buffer.from(await generateManifestVersion(result.value.groups)).toString("hex");
    return { ok: true, manifest: manifestToSortedJSON(result.value.groups), hash };
  } catch (error) {
    return { ok: false, errors: [String(error)] };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await judge(JSON.parse(line))) + "\n");
}
