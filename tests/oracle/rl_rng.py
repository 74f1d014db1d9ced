"""The product's seeded permutations (src/util/rng.ts), so that both sides shuffle alike."""

MASK = 0xFFFFFFFF


class Rng:
    """xoshiro128** 1.1, seeded by splitmix32."""

    def __init__(self, seed: int):
        low, high = seed & MASK, seed >> 32
        state = (low ^ (high * 0x85EBCA6B)) & MASK

        def following() -> int:
            nonlocal state
            state = (state + 0x9E3779B9) & MASK
            z = state
            z = ((z ^ (z >> 16)) * 0x85EBCA6B) & MASK
            z = ((z ^ (z >> 13)) * 0xC2B2AE35) & MASK
            return z ^ (z >> 16)

        self.state = [following() for _ in range(4)]

    def uint32(self) -> int:
        a, b, c, d = self.state
        rotate = lambda x, k: ((x << k) | (x >> (32 - k))) & MASK
        result = (rotate((b * 5) & MASK, 7) * 9) & MASK
        shifted = (b << 9) & MASK
        c ^= a
        d ^= b
        b ^= c
        a ^= d
        c ^= shifted
        self.state = [a, b, c, rotate(d, 11)]
        return result

    def below(self, n: int) -> int:
        limit = 2**32 - 2**32 % n
        value = self.uint32()
        while value >= limit:
            value = self.uint32()
        return value % n

    def permutation(self, n: int) -> list[int]:
        order = list(range(n))
        for i in range(n - 1, 0, -1):
            j = self.below(i + 1)
            order[i], order[j] = order[j], order[i]
        return order


def generation_seed(seed: int, generation: int, size: int) -> int:
    """The seed of training's generation (src/train/rl/rollout.ts)."""
    return (seed % 2**19) * 4 * 2**32 + (generation * size) % 2**32
