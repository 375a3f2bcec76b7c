/** Buttons in one frame, of which one is pressed: a choice among few. */
import { cx } from './cx'

interface Props<T extends string> {
  /** What is chosen, for readers of the screen. */
  label: string
  options: readonly { value: T; title: string; means?: string }[]
  value: T
  onPick: (value: T) => void
  className?: string
}

export function Segments<T extends string>({ label, options, value, onPick, className }: Props<T>) {
  return (
    <div className={cx('flex rounded border border-line-strong', className)} role="group" aria-label={label}>
      {options.map((option) => (
        <button
          key={option.value}
          type="button"
          aria-pressed={option.value === value}
          title={option.means}
          onClick={() => onPick(option.value)}
          className={cx('h-6 px-2.5 text-sm first:rounded-l last:rounded-r', option.value === value ? 'bg-accent-soft font-medium text-accent' : 'text-muted hover:bg-hover')}
        >
          {option.title}
        </button>
      ))}
    </div>
  )
}
