/** Keys. One listener on the document; views add theirs while they are shown, and the `?` sheet lists what is active. */
import { useEffect, useSyncExternalStore } from 'react'

import { useLatest } from '~/ui/latest'

export interface KeyBinding {
  /** `j`, `?`, `mod+k`, or a sequence such as `g d`. */
  keys: string
  does: string
  run: (event: KeyboardEvent) => void
  /** Works while a text field has focus. */
  always?: boolean
}

export interface KeyGroup {
  title: string
  bindings: KeyBinding[]
}

const groups = new Map<string, KeyGroup>()
const watchers = new Set<() => void>()
let shown: KeyGroup[] = []

function changed(): void {
  shown = [...groups.values()].filter((group) => group.bindings.length > 0)
  watchers.forEach((watcher) => watcher())
}

export const useKeyGroups = (): KeyGroup[] =>
  useSyncExternalStore(
    (watcher) => {
      watchers.add(watcher)
      return () => watchers.delete(watcher)
    },
    () => shown,
  )

/** Adds bindings while the component is mounted. The newest wins. */
export function useKeys(title: string, bindings: KeyBinding[]): void {
  const latest = useLatest(bindings)
  const shape = bindings.map((b) => `${b.keys}\t${b.does}`).join('\n')
  useEffect(() => {
    groups.set(title, {
      title,
      bindings: latest.current.map((binding, i) => ({ ...binding, run: (event) => latest.current[i]?.run(event) })),
    })
    changed()
    return () => {
      groups.delete(title)
      changed()
    }
    // `shape` stands for the bindings, which are new on each render.
    // oxlint-disable-next-line react/exhaustive-effect-dependencies
  }, [title, shape, latest])
}

const SEQUENCE_MS = 1200
let pending: { key: string; at: number } | undefined

function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(target.tagName)) &&
    !(target instanceof HTMLInputElement && ['checkbox', 'radio', 'button'].includes(target.type))
  )
}

function name(event: KeyboardEvent): string {
  const mod = event.metaKey || event.ctrlKey ? 'mod+' : ''
  return mod + (event.key.length === 1 ? event.key.toLowerCase() : event.key)
}

function find(keys: string, typing: boolean): KeyBinding | undefined {
  for (const group of [...groups.values()].toReversed()) {
    const hit = group.bindings.find((b) => b.keys === keys && (!typing || b.always))
    if (hit) return hit
  }
  return undefined
}

export function listenForKeys(): () => void {
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.defaultPrevented || event.altKey || event.isComposing) return
    const typing = isTyping(event.target)
    const key = name(event)
    const inDialog = document.querySelector('dialog[open]') !== null
    if (inDialog) return
    const first = pending && Date.now() - pending.at < SEQUENCE_MS ? pending.key : undefined
    pending = undefined
    const hit = (first === undefined ? undefined : find(`${first} ${key}`, typing)) ?? find(key, typing)
    if (hit) {
      event.preventDefault()
      hit.run(event)
    } else if (!typing && key === 'g') {
      pending = { key, at: Date.now() }
    }
  }
  document.addEventListener('keydown', onKeyDown)
  return () => document.removeEventListener('keydown', onKeyDown)
}
