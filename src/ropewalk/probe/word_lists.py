"""Plain English words for RULER's keys and lists, written down by hand: nouns, adjectives and verbs, all different.

A key of a needle is an adjective and a noun, which gives 35,910 keys. A list of words for counting takes single
words first, then two nouns written together, so it has 71,030 entries.
"""

from itertools import product

_NOUNS = """
acorn airport album alley almond anvil apple apron arrow atlas attic autumn badge bagel bakery balcony bamboo banjo
banner barn basin battery beacon beaver bench berry bicycle bishop blossom boat bonnet bookshelf boulder bracelet
branch brick broom bucket buffalo bulb bunker butter cabin cable cactus camel canal canyon captain caravan carrot
cavern cedar cellar cereal chalk chapel charcoal cherry chess chimney circus cliff cloak coast cobbler coconut coin
comet cookie cottage cotton courtyard crane crater creek cricket crown cupboard curtain cushion daisy dancer delta
desert diary dolphin donkey dragon drawer eagle earring echo elbow elephant engine envelope falcon farmer fern
festival fiddle flute forest fossil fountain fox galaxy gallery garlic glacier glove goat grape harbor harp harvest
hedge herring hill honey hotel island jacket jar jasmine jewel jungle kayak kennel kitchen kite lagoon lake lantern
lawn lemon library lighthouse lily lizard lobster locket magnet mango maple marble market meadow melon merchant meteor
mill mineral monkey moss motel mountain museum mushroom nest notebook oasis ocean olive onion orchard otter oven
oyster paddle palace panther parade parrot pasture peach peanut pebble pelican pepper piano pigeon pilot planet plaza
pocket poet pond poppy potato pottery prairie pumpkin puppet puzzle quarry quilt rabbit radish raft railway raisin
raven reef robin rocket rope sailor salmon sandal scarf school seal shepherd shoe shore skate sled snail soap sparrow
spider spoon squirrel stable statue stove summit swan sweater table tailor temple tent theatre thistle thunder ticket
tiger tomato trail train trumpet tunnel turtle umbrella valley vase velvet village vineyard violin volcano walnut
walrus waterfall weaver wheel willow winter wizard wolf yacht zebra zipper
"""
_ADJECTIVES = """
abrupt ample ancient angry bitter blunt bold brave brief bright broad calm careful cheap clean clever cold cosy crisp
curious damp dark deep dense dim dry dull eager early elegant empty exact fair faint famous fancy fast firm flat fond
fragile fresh gentle giant glad grand grateful greedy happy harsh heavy hollow honest huge humble icy idle jolly keen
kind large late lazy light lively lonely loud loyal lucky mellow mild modest muddy narrow neat noble noisy odd old
pale patient plain polite proud quick quiet rapid rare ripe rough round rude rusty sad salty sharp shiny short shy
silent simple sleepy slim slow small smooth soft solid sour steady steep stiff strange strong sunny sweet swift tall
tame tender thick thin tidy tiny tired vague vast warm weak wet wide wild wise witty young
"""
_VERBS = """
admit adopt amuse answer appear arrange arrive assist avoid bake balance behave believe borrow bounce breathe bring
build carry catch cheer choose climb collect compare confess cook count cover crawl dance decide defend deliver
describe design dig discover divide draw dream drink drive earn enjoy enter escape examine explain explore fetch
follow forgive gather grow guess guide hope hurry imagine improve invent invite join jump knit laugh learn listen
measure melt mend mention mix move notice obey observe offer order paint pause perform polish practise prefer prepare
promise protect prove pull push reach recover reduce refuse relax remember repair reply rescue rest return ride rinse
roll scatter search sell serve sew share shout sing sketch smile solve speak spend stretch study suggest supply
surprise swim teach thank throw travel trust visit wander wash wear whisper wonder wrap write yawn
"""

NOUNS, ADJECTIVES, VERBS = (tuple(dict.fromkeys(words.split())) for words in (_NOUNS, _ADJECTIVES, _VERBS))
SINGLE_WORDS = tuple(dict.fromkeys((*NOUNS, *ADJECTIVES, *VERBS)))
KEYS = tuple(f"{adjective}-{noun}" for adjective, noun in product(ADJECTIVES, NOUNS))
LISTED_WORDS = tuple(
    dict.fromkeys((*SINGLE_WORDS, *(one + other for one, other in product(NOUNS, NOUNS) if one != other)))
)
