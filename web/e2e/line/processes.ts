/** The real programs, as a test starts and ends them: nothing is found by name, everything by its handle. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { mkdir, mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const BIN_DIR = resolve(process.env.FARSHORE_BIN_DIR ?? '../target/debug')

/** The path of one of the programs. */
export const program = (name: string): string => join(BIN_DIR, name)

/** A port on loopback that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const address = server.address()
  await new Promise((done) => server.close(done))
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

interface Started {
  child: ChildProcess
  output: string
  /** Waits until the output matches; fails with all of it after the bound, or when the program ends. */
  says: (pattern: RegExp, ms?: number) => Promise<RegExpMatchArray>
  end: (signal?: NodeJS.Signals) => Promise<void>
}

/** A folder with everything that one test starts in it. */
export class Site {
  private readonly started: Started[] = []
  readonly environment: NodeJS.ProcessEnv

  private constructor(readonly folder: string) {
    this.environment = { ...process.env, XDG_CONFIG_HOME: join(folder, 'config'), NO_COLOR: '1' }
  }

  static async make(): Promise<Site> {
    return new Site(await mkdtemp(join(tmpdir(), 'farshore-line-')))
  }

  path(...parts: string[]): string {
    return join(this.folder, ...parts)
  }

  /** Starts a program that goes on until it is ended. */
  start(name: string, args: string[], more: Record<string, string> = {}): Started {
    const child = spawn(program(name), args, { cwd: this.folder, env: { ...this.environment, ...more }, stdio: ['ignore', 'pipe', 'pipe'] })
    const started: Started = {
      child,
      output: '',
      says: (pattern, ms = 20_000) =>
        new Promise((done, fail) => {
          const look = (): void => {
            const match = started.output.match(pattern)
            if (match !== null) finish(() => done(match))
          }
          const ended = (): void => finish(() => fail(new Error(`${name} ended:\n${started.output}`)))
          const timer = setTimeout(() => finish(() => fail(new Error(`${name} did not say ${pattern}:\n${started.output}`))), ms)
          const finish = (then: () => void): void => {
            clearTimeout(timer)
            child.off('exit', ended)
            child.stdout?.off('data', look)
            child.stderr?.off('data', look)
            then()
          }
          child.once('exit', ended)
          child.stdout?.on('data', look)
          child.stderr?.on('data', look)
          look()
        }),
      end: (signal = 'SIGTERM') =>
        new Promise((done) => {
          if (child.exitCode !== null || child.signalCode !== null) return done()
          const hard = setTimeout(() => child.kill('SIGKILL'), 10_000)
          child.once('exit', () => {
            clearTimeout(hard)
            done()
          })
          child.kill(signal)
        }),
    }
    const keep = (data: Buffer): void => {
      started.output = (started.output + data.toString()).slice(-200_000)
    }
    child.stdout?.on('data', keep)
    child.stderr?.on('data', keep)
    this.started.push(started)
    return started
  }

  /** Runs `farshore` to its end; what it prints on stdout. */
  farshore(args: string[], stdin = ''): Promise<string> {
    return new Promise((done, fail) => {
      const child = execFile(program('farshore'), args, { cwd: this.folder, env: this.environment, timeout: 120_000, maxBuffer: 32 << 20 }, (error, stdout, stderr) => {
        if (error === null) done(stdout)
        else fail(new Error(`farshore ${args.join(' ')}: ${error.message}\n${stdout}\n${stderr}`))
      })
      child.stdin?.end(stdin)
    })
  }

  /** A device: a runner and a `run`, both real. `more` is in the runner's environment. */
  async agent(name: string, token: string, label: string, more: Record<string, string> = {}): Promise<void> {
    await mkdir(this.path(name), { recursive: true })
    const socket = this.path(name, 'runner.sock')
    this.start('farshore-agent', ['runner', '--unprivileged', '--socket', socket, '--apps-dir', this.path(name, 'apps'), '--cgroup', '', '--reboot-command', ''], more)
    this.start('farshore-agent', ['run', '--state-dir', this.path(name, 'state'), '--runner-socket', socket, '--token', token, '--label', label])
  }

  /** What runs from this folder: the apps and their supervisors, which outlive the agents by design. */
  private async left(): Promise<number[]> {
    const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)
    const mine = await Promise.all(
      pids.map(async (pid) => (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).includes(`${this.folder}/`)),
    )
    return pids.filter((_, index) => mine[index])
  }

  /** Ends everything, the last first, then the apps, and removes the folder. */
  async end(): Promise<void> {
    for (const started of this.started.toReversed()) await started.end()
    const deadline = Date.now() + 15_000
    for (let pids = await this.left(); pids.length > 0; pids = await this.left()) {
      const signal = Date.now() > deadline ? 'SIGKILL' : 'SIGTERM'
      for (const pid of pids) {
        try {
          process.kill(pid, signal)
        } catch {
          // It has just ended.
        }
      }
      await new Promise((done) => setTimeout(done, 100))
    }
    await rm(this.folder, { recursive: true, force: true, maxRetries: 5 })
  }
}
