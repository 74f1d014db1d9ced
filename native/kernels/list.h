// Every kernel, in opcode order. K(name, arguments) has no workspace; KW(name, arguments) also defines name##_workspace.
// A kernel `name` is `static void NS::name(const Arg* a, void* ws)` in the .inc file that owns it.
// The argument letters (p address, i integer, f double, W a weight of 7 words) are README.md's; spaces are for reading.
#ifndef KERNEL_LIST
#define KERNEL_LIST(K, KW)                                    \
  /* matmul.inc */                                            \
  KW(matmul, "iii pii Wii pi p p f i pi pi f")                \
  /* embedding.inc */                                         \
  K(embedding, "iii Wii p f p")                               \
  K(embedding_grad, "iiii pp f pp")                           \
  K(select_rows, "iii ppp")                                   \
  K(select_rows_grad, "iii pp pp")                            \
  /* norm.inc */                                              \
  K(rms_norm, "ii pp ff p p")                                 \
  K(rms_norm_grad, "ii ppp ff pp")                            \
  KW(rms_norm_grad_weight, "ii pp f pp")                      \
  /* rope.inc */                                              \
  K(rope, "iiii pp i p i p")                                  \
  /* attention.inc */                                         \
  KW(attention, "iiii ppp pp f i f i pp")                     \
  KW(attention_grad, "iiii ppp pp f i f i ppp ppp")           \
  K(kv_write, "ii pp i p")                                    \
  KW(attention_cached, "iiii ppp i pp f i f p")               \
  /* glu.inc */                                               \
  K(glu, "ii ppp")                                            \
  K(glu_grad, "ii ppp pp")                                    \
  /* cross_entropy.inc, linear_cross_entropy.inc */           \
  KW(linear_cross_entropy, "iii p Wi p pp ff pp p pp pp")     \
  KW(cross_entropy, "ii ppp ff pp p")                         \
  K(cross_entropy_grad, "ii ppp p ff p p")                    \
  /* log_probs.inc */                                         \
  KW(log_probs, "ii pp ff pppp")                              \
  K(log_probs_grad, "ii pp ff p p")                           \
  KW(linear_log_probs, "iii p Wi pp ff pppp")                 \
  KW(linear_log_probs_grad, "iii p Wi pp ff p p pp pp")       \
  /* softmax.inc */                                           \
  K(log_softmax, "ii f pp")                                   \
  K(log_softmax_grad, "ii f ppp")                             \
  /* elementwise.inc */                                       \
  K(unary, "ii f pp")                                         \
  K(unary_grad, "ii f pppp")                                  \
  K(binary, "iii pi pi p")                                    \
  K(reduce, "iiii p pp")                                      \
  K(column_sum, "ii f p pp")                                  \
  K(dropout, "i f p i pp")                                    \
  K(fill, "ii p")                                             \
  K(copy, "i pp")                                             \
  /* sampling.inc */                                          \
  K(sample, "ii pp p pp i pp")                                \
  /* optim.inc */                                             \
  K(sum_squares, "i p p p")                                   \
  K(clip_factor, "pppp")                                      \
  K(adamw, "i pppp p p i")                                    \
  K(adamw8bit, "i pp pp pp pp p p i")                         \
  /* quant.inc */                                             \
  K(dequantize, "W iii p")                                    \
  K(quantize_nf4, "ii p i pp")
#endif
