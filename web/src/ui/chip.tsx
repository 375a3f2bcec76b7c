/** A filter that holds, as one would type it, with a button that takes it away. */
import { Icon } from './icon'

export const FilterChip = ({ text, onRemove }: { text: string; onRemove: () => void }) => (
  <span className="flex h-6 min-w-0 items-center rounded bg-accent-soft pl-2 font-mono text-sm">
    <span className="truncate">{text}</span>
    <button
      type="button"
      aria-label={`Remove the filter ${text}`}
      onClick={onRemove}
      className="flex h-6 w-6 shrink-0 items-center justify-center rounded text-muted hover:text-ink"
    >
      <Icon name="close" size={12} />
    </button>
  </span>
)
