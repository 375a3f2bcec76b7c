/** Light, dark, or as the system has it. `public/theme.js` does the same before the first paint. */
import { useSyncExternalStore } from 'react'

export type Theme = 'system' | 'light' | 'dark'

const KEY = 'farshore.theme'
const watchers = new Set<() => void>()
const system = matchMedia('(prefers-color-scheme: dark)')

function stored(): Theme {
  try {
    const value = localStorage.getItem(KEY)
    return value === 'light' || value === 'dark' ? value : 'system'
  } catch {
    return 'system'
  }
}

let theme = stored()

function apply(): void {
  const dark = theme === 'dark' || (theme === 'system' && system.matches)
  document.documentElement.dataset.theme = dark ? 'dark' : 'light'
  watchers.forEach((watcher) => watcher())
}

system.addEventListener('change', apply)
addEventListener('storage', (event) => {
  if (event.key !== KEY) return
  theme = stored()
  apply()
})

export function setTheme(next: Theme): void {
  theme = next
  try {
    if (next === 'system') localStorage.removeItem(KEY)
    else localStorage.setItem(KEY, next)
  } catch {
    // It holds for this tab.
  }
  apply()
}

const subscribe = (watcher: () => void): (() => void) => {
  watchers.add(watcher)
  return () => watchers.delete(watcher)
}

export const useTheme = (): Theme => useSyncExternalStore(subscribe, () => theme)

/** What is painted now; canvases read their colours again when it changes. */
export const usePaintedTheme = (): string =>
  useSyncExternalStore(subscribe, () => document.documentElement.dataset.theme ?? 'light')
