"""How everything in the report is measured, in words that are printed with it."""

PROTOCOL = """\
- Probes are linear (ridge) on frozen features, fitted on training clips, event clips mirrored as
  well; strength and level are chosen on validation and reported on test. `MLP` is one hidden layer
  on the same rows, `convolution` one hidden layer of 3 x 3 over a frame's tokens. Shares of labels
  are of training clips; validation stays whole.
- Depth: from the level-0 token of a single frame to 4 x 4 cells of its patch, one head for all
  places: it maps a token's change from its mean at that place to the depth's. The pixel at a cell's
  centre is the truth; metric, no alignment; surfaces beyond 10 m count as 10 m; cells that hit
  nothing do not count. Metrics of Eigen et al. 2014 over all cells of the split together.
- Position and velocity: of the tracked object, from the context state, at the last frame of a step,
  every second frame. Visible: more than 90 % of it shows. Partly: some of it. Hidden: none of it.
  All only with the centre inside the image and the object seen before. `tokens` are those of the
  step alone, without any past. Whole steps of more than 4096 numbers are averaged to 4 x 4 tokens
  and projected at random.
- copy_last_seen and constant_velocity are given the true past places: every earlier frame where the
  object is hidden, the frames of earlier steps where it shows. clock: frame index and screen boxes
  with their squares and products.
- Camera: its velocity and turning since the frame before, six axes in units of their spread.
- Category, animacy, support, contact: of every object in full view, asked of the token that shows
  its centre, every fourth frame; rows weighted so that classes count alike. `pixels`: the token's
  patch and half a patch around it.
- Permanence: probe fitted on single worlds, tested where worlds with and without the object are
  equal to the bit.
- Position from predictions: the probe of a level's real tokens reads its predicted ones, where the
  object was seen before and is in full view at the moment predicted. `copy`: the last real tokens.
- Prediction: mean squared error over clips, steps, tokens and dimensions; all predictors on the
  same steps, from the second step of the clip on. AR(1) is fitted per dimension on training clips.
- Surprise: distance of predicted tokens from what came (root of the mean square over dimensions),
  mean over tokens and steps, in float64. Relative
  accuracy of a block: 1 if S(AB) + S(BA) > S(AA) + S(BB), 1/2 if equal within 1e-9 of their sum,
  else 0; pairs: S(possible) < S(impossible) for the two pairs that begin alike. Overall: the mean
  over the hidden kinds. One way of reading for all kinds, chosen on validation blocks of the hidden
  kinds among all levels, horizons and lengths of past, and all levels combined (each in units of
  its spread on possible validation clips): all combined, unless the place with the best mean over
  kinds beats that by two standard errors; of equal places the one that looks farthest ahead, then
  the lowest level. Untrained networks are scored in the same way; `biased`
  marks a kind on which they are not at chance. Gravity, inertia and collision happen in open view,
  where a memory of three frames is enough: a tier of their own.
- p: against chance the exact sign test over blocks, against untrained networks a sign-flip test of
  each block's score minus their mean; corrected for the number of kinds (Holm 1979).
- Peaks: whether surprise is largest within a step of the first frame that shows the violation, by
  itself and in excess of the possible clip; and whether the token of largest excess is the one that
  shows the object's place, or a neighbour of it.
- Intervals: 95 %, percentiles over resampled blocks or clips, of clips farther out where they are
  few (as Student's t, Hesterberg 2015); none of a single clip. Where all blocks of a kind came out
  alike, which no resample changes, the reach of Wilson's interval for as many is added in squares.
- The model runs in chunks of 8 clips, sorted by key, the last one padded, on one thread each.
"""
