/** A real control plane for a test: `farshore dev` in a folder of its own, on ports of its own, ended with the test. */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

import { program } from '../line/processes'

export interface Farshore {
  /** `https://localhost:<port>` */
  url: string
  /** The one-time login link. */
  link: string
  data: string
  /** Everything it has said so far. */
  said: () => string
  /** Runs the command line against it and answers what it printed. */
  cli: (...args: string[]) => Promise<string>
  stop: () => Promise<void>
}

const START_MS = 90_000
const STOP_MS = 20_000

export async function startFarshore(...args: string[]): Promise<Farshore> {
  const bin = program('farshore')
  const data = mkdtempSync(join(tmpdir(), 'farshore-e2e-'))
  const child = spawn(bin, ['dev', '--data', data, '--port', '0', '--device-port', '0', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  const link = await new Promise<string>((resolve, reject) => {
    const fail = (why: string): void => reject(new Error(`${why}\n${said}`))
    const timer = setTimeout(() => fail('farshore dev printed no login link in time'), START_MS)
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        said += `${line}\n`
        const found = /https:\/\/\S+\/login#link=\S+/.exec(line)
        if (!found) return
        clearTimeout(timer)
        resolve(found[0])
      })
    }
    child.once('error', (error) => fail(error.message))
    child.once('exit', (code) => fail(`farshore dev ended with ${code}`))
  })
  return {
    url: new URL(link).origin,
    link,
    data,
    said: () => said,
    cli: (...words) => run(bin, ['--config', join(data, 'config.yaml'), ...words]),
    stop: async () => {
      await end(child)
      rmSync(data, { recursive: true, force: true })
    },
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  child.kill('SIGINT')
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS)
  await gone
  clearTimeout(timer)
}

function run(bin: string, args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(bin, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    let [out, err] = ['', '']
    child.stdout.on('data', (piece: Buffer) => (out += piece.toString()))
    child.stderr.on('data', (piece: Buffer) => (err += piece.toString()))
    child.once('error', reject)
    child.once('exit', (code) =>
      code === 0 ? resolve(out) : reject(new Error(`farshore ${args.join(' ')} ended with ${code}: ${err}`)),
    )
  })
}
