/** A button with a list of actions. Arrow keys move, Escape closes and gives focus back. */
import { useEffect, useId, useRef, useState, type ReactNode } from 'react'

import { buttonClass } from './button'
import { cx } from './cx'

export interface MenuItem {
  label: ReactNode
  onPick: () => void
  /** Marks the one in use among choices. */
  chosen?: boolean
  disabledReason?: string | undefined
}

interface Props {
  label: string
  button: ReactNode
  items: (MenuItem | 'line')[]
  head?: ReactNode
  align?: 'left' | 'right'
  className?: string
}

export function Menu({ label, button, items, head, align = 'right', className }: Props) {
  const [open, setOpen] = useState(false)
  const root = useRef<HTMLDivElement>(null)
  const list = useRef<HTMLDivElement>(null)
  const id = useId()

  useEffect(() => {
    if (!open) return
    list.current?.querySelector<HTMLElement>('[role^=menuitem]')?.focus()
    const away = (event: PointerEvent): void => {
      if (!root.current?.contains(event.target as Node)) setOpen(false)
    }
    addEventListener('pointerdown', away)
    return () => removeEventListener('pointerdown', away)
  }, [open])

  const close = (): void => {
    setOpen(false)
    root.current?.querySelector('button')?.focus()
  }

  const onKeyDown = (event: React.KeyboardEvent): void => {
    if (!open) return
    const all = Array.from(list.current?.querySelectorAll<HTMLElement>('[role^=menuitem]') ?? [])
    const at = all.indexOf(document.activeElement as HTMLElement)
    const go = (index: number): void => all[(index + all.length) % all.length]?.focus()
    if (event.key === 'ArrowDown') go(at + 1)
    else if (event.key === 'ArrowUp') go(at - 1)
    else if (event.key === 'Home') go(0)
    else if (event.key === 'End') go(all.length - 1)
    else if (event.key === 'Escape') close()
    else if (event.key === 'Tab') {
      setOpen(false)
      return
    } else return
    event.preventDefault()
    event.stopPropagation()
  }

  return (
    // oxlint-disable-next-line jsx-a11y/no-static-element-interactions -- only passes keys on to the menu inside
    <div ref={root} className="relative" onKeyDown={onKeyDown}>
      <button
        type="button"
        aria-haspopup="menu"
        aria-expanded={open}
        aria-controls={open ? id : undefined}
        aria-label={label}
        onClick={() => setOpen(!open)}
        className={className ?? buttonClass('ghost')}
      >
        {button}
      </button>
      {open && (
        <div
          ref={list}
          id={id}
          role="menu"
          aria-label={label}
          className={cx(
            'panel rise absolute top-full z-40 mt-1 max-h-80 min-w-48 overflow-y-auto py-1 shadow-pop',
            align === 'right' ? 'right-0' : 'left-0',
          )}
        >
          {head !== undefined && (
            <div role="presentation" className="border-b border-line px-3 pt-1 pb-2 text-sm text-muted">
              {head}
            </div>
          )}
          {items.map((item, i) =>
            item === 'line' ? (
              <div key={i} role="separator" className="my-1 border-t border-line" />
            ) : (
              <button
                key={i}
                type="button"
                role={item.chosen === undefined ? 'menuitem' : 'menuitemradio'}
                aria-checked={item.chosen}
                aria-disabled={item.disabledReason !== undefined || undefined}
                title={item.disabledReason}
                tabIndex={-1}
                onClick={() => {
                  if (item.disabledReason !== undefined) return
                  close()
                  item.onPick()
                }}
                className={cx(
                  'flex w-full items-center gap-2 px-3 py-1.5 text-left hover:bg-hover focus:bg-hover focus:outline-none',
                  item.chosen === true && 'font-semibold text-accent',
                  item.disabledReason !== undefined && 'text-muted',
                )}
              >
                {item.label}
              </button>
            ),
          )}
        </div>
      )}
    </div>
  )
}
