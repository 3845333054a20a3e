"""Small models of the papers that notebook 3 reads: pure functions, one module per paper.

| module | paper | what it models |
|---|---|---|
| `paged_attention` | Kwon et al., SOSP 2023 | bytes and slots, three allocators |
| `flash_attention` | Dao et al., NeurIPS 2022 | tiles with an online softmax |
| `deepspeed_inference` | Aminabadi et al., SC 2022 | small products, fusion |
| `speculative` | Leviathan et al., ICML 2023 | speed-up from the acceptance rate |

Numbers quoted from a paper are constants with the table or figure in their comment; everything else
is computed. Nothing here starts an engine, reads a clock or draws a picture.
"""
