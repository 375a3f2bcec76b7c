/** A note that appears when what it belongs to is hovered or focused, and goes with Escape. It describes; it holds nothing to press. */
import { useEffect, useRef, useState, type ReactNode } from 'react'
import { createPortal } from 'react-dom'

interface Props {
  text: ReactNode
  children: ReactNode
  /** Where the wrapped element points with `aria-describedby`; the note is then always in the document for readers. */
  id?: string
  className?: string
}

const MARGIN = 8

export function Hint({ text, children, id, className }: Props) {
  const anchor = useRef<HTMLSpanElement>(null)
  const note = useRef<HTMLDivElement>(null)
  // Inside an open dialog the note must be too: the dialog lies above everything else.
  const [host, setHost] = useState<Element | undefined>()
  const open = host !== undefined
  const show = (): void => setHost(anchor.current?.closest('dialog') ?? document.body)
  const hide = (): void => setHost(undefined)

  useEffect(() => {
    if (!open) return
    const at = anchor.current?.getBoundingClientRect()
    const box = note.current
    if (!at || !box) return
    const { width, height } = box.getBoundingClientRect()
    const left = Math.max(MARGIN, Math.min(at.left + at.width / 2 - width / 2, innerWidth - width - MARGIN))
    const below = at.bottom + 6 + height < innerHeight - MARGIN
    box.style.left = `${left}px`
    box.style.top = `${below ? at.bottom + 6 : Math.max(MARGIN, at.top - height - 6)}px`
    const close = (event: Event): void => {
      if (!(event instanceof KeyboardEvent) || event.key === 'Escape') setHost(undefined)
    }
    addEventListener('keydown', close)
    addEventListener('scroll', close, true)
    return () => {
      removeEventListener('keydown', close)
      removeEventListener('scroll', close, true)
    }
  }, [open])

  return (
    <span
      ref={anchor}
      className={className ?? 'inline-flex'}
      onPointerEnter={show}
      onPointerLeave={hide}
      onFocus={show}
      onBlur={hide}
    >
      {children}
      {id !== undefined && (
        <span id={id} hidden>
          {text}
        </span>
      )}
      {host !== undefined &&
        createPortal(
          <div
            ref={note}
            role="tooltip"
            className="panel rise pointer-events-none fixed top-0 left-0 z-50 max-w-80 px-3 py-2 text-sm text-ink shadow-pop"
          >
            {text}
          </div>,
          host,
        )}
    </span>
  )
}
