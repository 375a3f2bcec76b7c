/** On a change of page: says its name politely and moves focus to its heading. Tabs and filters within a page leave focus alone. */
import { useRouterState } from '@tanstack/react-router'
import { useEffect, useRef, useState } from 'react'

import { onAnnounce } from '~/ui/announce'

export function Announcer() {
  const path = useRouterState({ select: (state) => state.resolvedLocation?.pathname })
  const before = useRef(path)
  const [text, setText] = useState('')

  useEffect(() => onAnnounce(setText), [])
  useEffect(() => {
    if (path === before.current) return
    const first = before.current === undefined
    before.current = path
    if (first) return
    const frame = requestAnimationFrame(() => {
      const heading = document.querySelector<HTMLElement>('main h1')
      heading?.focus({ preventScroll: true })
      setText(heading?.textContent ?? document.title)
      document.querySelector('main')?.scrollTo(0, 0)
    })
    return () => cancelAnimationFrame(frame)
  }, [path])

  return (
    <div aria-live="polite" aria-atomic="true" className="sr-only">
      {text}
    </div>
  )
}
