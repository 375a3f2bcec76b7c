/** The network between a device and its control plane, which a test can take away and give back. */
import { connect, createServer, type Server, type Socket } from 'node:net'

export class Relay {
  private up = true
  private readonly open = new Set<Socket>()

  private constructor(
    private readonly server: Server,
    readonly port: number,
  ) {}

  /** Hands on to this port of loopback. */
  static async to(port: number): Promise<Relay> {
    const server = createServer()
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    const address = server.address()
    if (address === null || typeof address === 'string') throw new Error('no port')
    const relay = new Relay(server, address.port)
    server.on('connection', (from) => relay.hand(from, port))
    return relay
  }

  private hand(from: Socket, port: number): void {
    if (!this.up) {
      from.destroy()
      return
    }
    const to = connect(port, '127.0.0.1')
    for (const [one, other] of [
      [from, to],
      [to, from],
    ] as const) {
      this.open.add(one)
      one.pipe(other)
      // An end of one side, whatever its reason, is the end of both.
      one.on('error', () => other.destroy())
      one.on('close', () => {
        this.open.delete(one)
        other.destroy()
      })
    }
  }

  cut(): void {
    this.up = false
    for (const socket of this.open) socket.destroy()
  }

  mend(): void {
    this.up = true
  }

  async end(): Promise<void> {
    this.cut()
    await new Promise((done) => this.server.close(done))
  }
}
