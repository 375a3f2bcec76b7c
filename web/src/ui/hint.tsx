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

/** Lists have hundreds of these: a closed one costs one state and nothing else. */
export function Hint({ text, children, id, className }: Props) {
  const [anchor, setAnchor] = useState<Element | undefined>()
  const hide = (): void => setAnchor(undefined)
  return (
    <span
      className={className ?? 'inline-flex min-w-0'}
      onPointerEnter={(event) => setAnchor(event.currentTarget)}
      onPointerLeave={hide}
      onFocus={(event) => setAnchor(event.currentTarget)}
      onBlur={hide}
    >
      {children}
      {id !== undefined && (
        <span id={id} hidden>
          {text}
        </span>
      )}
      {anchor && <Note anchor={anchor} text={text} onClose={hide} />}
    </span>
  )
}

function Note({ anchor, text, onClose }: { anchor: Element; text: ReactNode; onClose: () => void }) {
  const note = useRef<HTMLDivElement>(null)
  useEffect(() => {
    const box = note.current
    if (!box) return
    const at = anchor.getBoundingClientRect()
    const { width, height } = box.getBoundingClientRect()
    const left = Math.max(MARGIN, Math.min(at.left + at.width / 2 - width / 2, innerWidth - width - MARGIN))
    const below = at.bottom + 6 + height < innerHeight - MARGIN
    box.style.left = `${left}px`
    box.style.top = `${below ? at.bottom + 6 : Math.max(MARGIN, at.top - height - 6)}px`
  }, [anchor])
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent): void => {
      if (event.key === 'Escape') onClose()
    }
    addEventListener('keydown', onKeyDown)
    addEventListener('scroll', onClose, true)
    return () => {
      removeEventListener('keydown', onKeyDown)
      removeEventListener('scroll', onClose, true)
    }
  }, [onClose])
  return createPortal(
    <div
      ref={note}
      role="tooltip"
      className="panel rise pointer-events-none fixed top-0 left-0 z-50 max-w-80 px-3 py-2 text-sm text-ink shadow-pop"
    >
      {text}
    </div>,
    // Inside an open dialog the note must be too: the dialog lies above everything else.
    anchor.closest('dialog') ?? document.body,
  )
}
