// What the corpus talks about: names, things with their measure words, places and containers.

export const EN = {
  names:
    "Tom Amy Ben Lily Jack Emma Leo Mia Sam Ella Max Zoe Dan Ivy Luke Anna Noah Rose Kate Paul Jane Mark Lucy Alex".split(
      " ",
    ),
  /** Singular and plural. */
  things: [
    ..."apple pencil book sticker marble egg card ball pen cake stamp coin flower toy shell cup stone star orange pear".split(
      " ",
    ),
    ..."banana cookie duck hen chair desk kite hat bag tree bird car bike cow rabbit lemon carrot ticket letter button".split(
      " ",
    ),
  ]
    .map((thing) => [thing, `${thing}s`])
    .concat([
      ["peach", "peaches"],
      ["box", "boxes"],
      ["candy", "candies"],
      ["brush", "brushes"],
    ]),
  containers: [
    ["box", "boxes"],
    ["bag", "bags"],
    ["basket", "baskets"],
    ["row", "rows"],
    ["plate", "plates"],
    ["shelf", "shelves"],
    ["group", "groups"],
    ["team", "teams"],
  ],
  places: ["shop", "school", "garden", "park", "farm", "library", "room", "kitchen", "store", "class", "zoo", "yard"],
};

export const ZH = {
  names:
    "小明 小红 小华 小丽 小刚 小芳 小军 小强 小美 小东 小林 小云 小文 小亮 小雨 小杰 丽丽 乐乐 明明 红红 张老师 李老师 王叔叔 妈妈".split(
      " ",
    ),
  /** Measure word and noun. */
  things: [
    ..."个苹果 支铅笔 本书 张贴纸 颗弹珠 个鸡蛋 张卡片 个皮球 块蛋糕 枚邮票 枚硬币 朵花 颗糖 个玩具 个贝壳 个杯子 块石头".split(
      " ",
    ),
    ..."颗星星 个橘子 个梨 个桃子 根香蕉 块饼干 只鸭子 只鸡 条鱼 只羊 把椅子 张桌子 只风筝 顶帽子 个书包 棵树 只鸟".split(
      " ",
    ),
    ..."辆汽车 辆车 本练习本 瓶牛奶 盒粉笔 只兔子 头牛 张票 封信 根萝卜 把尺子 支钢笔 块橡皮 件衣服 个西瓜 个气球".split(
      " ",
    ),
  ].map((thing) => [thing[0], thing.slice(1)]),
  containers: "盒 袋 篮 排 盘 组 箱 行".split(" "),
  places: "商店 学校 花园 公园 农场 图书馆 教室 厨房 超市 果园 动物园 院子".split(" "),
};
