/** Says something politely to readers of the screen. The region is in `frame/announcer.tsx`. */
type Listener = (text: string) => void

let listener: Listener | undefined

export function onAnnounce(next: Listener): () => void {
  listener = next
  return () => {
    listener = undefined
  }
}

export function announce(text: string): void {
  listener?.(text)
}
