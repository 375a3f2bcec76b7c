/** The shared worker: one event stream for all tabs of this browser. */
import { Hub } from './hub'

const hub = new Hub()
const scope = globalThis as unknown as { onconnect: ((event: MessageEvent) => void) | null }

scope.onconnect = (event) => {
  const port = event.ports[0]
  if (!port) return
  let stop: (() => void) | undefined
  port.onmessage = (message: MessageEvent<{ listen: string } | { bye: true }>) => {
    stop?.()
    stop = undefined
    if ('listen' in message.data) {
      stop = hub.listen(message.data.listen, (what) => port.postMessage(what))
    } else {
      port.close()
    }
  }
}
