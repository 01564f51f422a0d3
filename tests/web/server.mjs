// A server of the program under test. PROGRAM names the program, MODEL a small model.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { execFileSync } from "node:child_process";

export const { PROGRAM: program, MODEL: model } = process.env;

/** What a command prints as JSON. */
export const printed = (...args) => JSON.parse(execFileSync(program, [...args, "--format", "json"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"], maxBuffer: 1 << 28 }));

/** Starts `serve` with these flags, gives its address to `use`, and ends it. */
export async function serving(args, use) {
  const child = spawn(program, ["serve", ...args], { stdio: ["ignore", "pipe", "ignore"] });
  try {
    const [address] = await once(createInterface(child.stdout), "line");
    await use(address, child);
  } finally {
    child.kill("SIGKILL");
  }
}
