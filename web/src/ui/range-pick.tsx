/** The range of time that charts show. */
import { RANGES, type Range } from './range'
import { Segments } from './segments'

const OPTIONS = RANGES.map((range) => ({ value: range, title: range }))

export const RangePick = ({ range, onPick, className }: { range: Range; onPick: (range: Range) => void; className?: string }) => (
  <Segments label="Range of time" options={OPTIONS} value={range} onPick={onPick} {...(className === undefined ? {} : { className })} />
)
